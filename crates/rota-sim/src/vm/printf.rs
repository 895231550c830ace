// SPDX-License-Identifier: GPL-2.0-only
//! The kernel's `printf` formats as far as programs may use them.

use super::Memory;

/// The longest string that `%s` prints, in bytes.
const MAX_STRING: usize = 1024;
/// The widest field, in characters.
const MAX_WIDTH: usize = 1024;

/// One `%...` of a format.
#[derive(Default)]
struct Spec {
    left: bool,
    zeros: bool,
    prefix: bool,
    plus: bool,
    width: usize,
    precision: Option<usize>,
    /// How many `l`.
    long: u32,
    /// How many `h`.
    short: u32,
}

/// Format `data` as `format` says; a pointer to a string is read from `memory`.
/// The error says what is wrong with the format.
pub(crate) fn format(memory: &Memory, format: &[u8], data: &[u64]) -> Result<String, String> {
    let mut text = Vec::new();
    let mut data = data.iter().copied();
    let mut rest = format.iter().copied().peekable();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            text.push(byte);
            continue;
        }
        let mut spec = Spec::default();
        let conversion = spec.parse(&mut rest)?;
        if conversion == b'%' {
            text.push(b'%');
            continue;
        }
        let value = data.next().ok_or("more conversions than arguments")?;
        text.extend(spec.print(memory, conversion, value, &mut rest)?);
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

type Rest<I> = std::iter::Peekable<I>;

impl Spec {
    /// Everything up to the letter of the conversion, which is returned.
    fn parse(&mut self, rest: &mut Rest<impl Iterator<Item = u8>>) -> Result<u8, String> {
        while let Some(flag) = rest.next_if(|byte| b"-0#+ ".contains(byte)) {
            match flag {
                b'-' => self.left = true,
                b'0' => self.zeros = true,
                b'#' => self.prefix = true,
                b'+' => self.plus = true,
                _ => {}
            }
        }
        self.width = number(rest).unwrap_or(0);
        if rest.next_if_eq(&b'.').is_some() {
            self.precision = Some(number(rest).unwrap_or(0));
        }
        while let Some(length) = rest.next_if(|byte| b"lhz".contains(byte)) {
            match length {
                b'h' => self.short += 1,
                _ => self.long += 1,
            }
        }
        rest.next().ok_or_else(|| "ends within a conversion".into())
    }

    fn print(
        &self,
        memory: &Memory,
        conversion: u8,
        value: u64,
        rest: &mut Rest<impl Iterator<Item = u8>>,
    ) -> Result<Vec<u8>, String> {
        let (sign, digits) = match conversion {
            b'd' | b'i' => {
                let number = self.signed(value);
                let sign = match number {
                    0.. if self.plus => "+",
                    0.. => "",
                    _ => "-",
                };
                (sign, number.unsigned_abs().to_string())
            }
            b'u' => ("", self.unsigned(value).to_string()),
            b'x' => (self.hex(), format!("{:x}", self.unsigned(value))),
            b'X' => (self.hex(), format!("{:X}", self.unsigned(value))),
            b'o' => ("", format!("{:o}", self.unsigned(value))),
            b'p' => {
                // %pK, %px and the like: what kind of pointer it is.
                while rest.next_if(u8::is_ascii_alphanumeric).is_some() {}
                ("", format!("{value:016x}"))
            }
            b'c' => return Ok(self.pad(vec![value as u8])),
            b's' => {
                let max = self.precision.unwrap_or(MAX_STRING).min(MAX_STRING);
                let bytes = memory.read_str(value, max);
                return Ok(self.pad(bytes.unwrap_or_else(|_| b"(null)".to_vec())));
            }
            other => return Err(format!("there is no conversion %{}", char::from(other))),
        };
        let zeros = if self.zeros && !self.left {
            self.width.saturating_sub(sign.len())
        } else {
            0
        };
        Ok(self.pad(format!("{sign}{digits:0>zeros$}").into_bytes()))
    }

    fn hex(&self) -> &'static str {
        if self.prefix { "0x" } else { "" }
    }

    fn signed(&self, value: u64) -> i64 {
        match (self.long, self.short) {
            (1.., _) => value as i64,
            (0, 0) => i64::from(value as i32),
            (0, 1) => i64::from(value as i16),
            (0, _) => i64::from(value as i8),
        }
    }

    fn unsigned(&self, value: u64) -> u64 {
        match (self.long, self.short) {
            (1.., _) => value,
            (0, 0) => u64::from(value as u32),
            (0, 1) => u64::from(value as u16),
            (0, _) => u64::from(value as u8),
        }
    }

    /// Fill up to the width with spaces.
    fn pad(&self, mut text: Vec<u8>) -> Vec<u8> {
        let spaces = self.width.saturating_sub(text.len());
        if self.left {
            text.resize(text.len() + spaces, b' ');
            return text;
        }
        let mut padded = vec![b' '; spaces];
        padded.extend(text);
        padded
    }
}

fn number(rest: &mut Rest<impl Iterator<Item = u8>>) -> Option<usize> {
    let mut number = None;
    while let Some(digit) = rest.next_if(u8::is_ascii_digit) {
        let value = number.unwrap_or(0) * 10 + usize::from(digit - b'0');
        number = Some(value.min(MAX_WIDTH));
    }
    number
}

#[cfg(test)]
mod tests {
    use super::super::Kind;
    use super::*;

    fn text(fmt: &str, data: &[u64]) -> String {
        format(&Memory::new(), fmt.as_bytes(), data).unwrap()
    }

    #[test]
    fn numbers_are_printed_as_the_kernel_does() {
        assert_eq!(text("%d %u", &[u64::MAX, u64::MAX]), "-1 4294967295");
        assert_eq!(text("%lld %llu", &[u64::MAX, 7]), "-1 7");
        assert_eq!(
            text("0x%llx|%#x|%X", &[0x2_0000_0003, 255, 255]),
            "0x200000003|0xff|FF"
        );
        assert_eq!(
            text("[%5d][%-5d][%05d]", &[42, 42, (-42_i64) as u64]),
            "[   42][42   ][-0042]"
        );
        assert_eq!(text("%hhu %hd", &[0x1ff, 0xffff]), "255 -1");
        assert_eq!(text("100%%", &[]), "100%");
        assert_eq!(text("%px.", &[0x1000]), "0000000000001000.");
    }

    #[test]
    fn strings_are_read_from_memory() {
        let mut memory = Memory::new();
        let at = memory.add("s", Kind::Global, b"pipe\0rest".to_vec());
        let text = |fmt: &str, value| format(&memory, fmt.as_bytes(), &[value]).unwrap();
        assert_eq!(text("%s!", at), "pipe!");
        assert_eq!(text("%.2s", at), "pi");
        assert_eq!(text("%6s", at), "  pipe");
        assert_eq!(text("%s", 0), "(null)");
    }

    #[test]
    fn bad_formats_are_refused() {
        let memory = Memory::new();
        for bad in ["%d", "%", "%q", "%5"] {
            let data: &[u64] = if bad == "%d" { &[] } else { &[1] };
            assert!(format(&memory, bad.as_bytes(), data).is_err(), "{bad}");
        }
    }
}
