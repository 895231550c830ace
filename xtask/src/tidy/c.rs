// SPDX-License-Identifier: GPL-2.0-only
//! Rules for C, which is mostly BPF: lengths, and what a header of bpf-common leaves to others.
//!
//! A scanner that knows comments, strings, preprocessor lines and braces is enough for them.

use super::{Problem, Source};

/// Longest function, in Rust too.
pub const MAX_FUNCTION_LINES: usize = 70;
const MAX_COLUMNS: usize = 100;
const TAB: usize = 8;

/// The headers that may know one kernel from another.
const COMPAT: [&str; 2] = ["compat.bpf.h", "kfuncs.bpf.h"];

/// Checks one file.
pub fn check(source: &Source) -> Vec<Problem> {
    let scan = Scan::new(&source.text);
    let mut problems = Vec::new();
    for (line, text) in (1..).zip(source.text.lines()) {
        let columns = columns(text);
        if columns > MAX_COLUMNS {
            let message = format!("{columns} columns; a line has at most {MAX_COLUMNS}");
            problems.push(source.problem(line, message));
        }
    }
    let shared_header = source.path.starts_with("bpf-common/") && source.extension() == "h";
    for (line, (code, text)) in (1..).zip(scan.lines.iter().zip(source.text.lines())) {
        if shared_header && !code.directive && defines(&code.text, text) {
            let message = "a shared header defines programs and maps only through a macro";
            problems.push(source.problem(line, message));
        }
        if has_word(&code.text, &["__kconfig"]) {
            let message = "`__kconfig` needs the kernel's config in the guest: ask BTF instead";
            problems.push(source.problem(line, message));
        }
        if !COMPAT.contains(&source.name()) && tells_kernels_apart(&code.text) {
            let message = format!("kernel differences belong in {}", COMPAT.join(" and "));
            problems.push(source.problem(line, message));
        }
    }
    problems.extend(functions(source, &scan));
    problems
}

/// A line of code: comments and the insides of strings are blank.
struct Line {
    text: String,
    /// Part of a preprocessor directive, continuation lines included.
    directive: bool,
}

struct Scan {
    lines: Vec<Line>,
}

impl Scan {
    fn new(text: &str) -> Self {
        let code = blank_comments_and_strings(text);
        let mut lines: Vec<Line> = Vec::new();
        let mut continued = false;
        for text in code.lines() {
            let directive = continued || text.trim_start().starts_with('#');
            continued = directive && text.trim_end().ends_with('\\');
            lines.push(Line {
                text: text.to_owned(),
                directive,
            });
        }
        Self { lines }
    }
}

/// `text` with every character in a comment, string or character literal replaced by a blank.
/// Line ends stay, quotes too.
fn blank_comments_and_strings(text: &str) -> String {
    #[derive(PartialEq)]
    enum In {
        Code,
        LineComment,
        BlockComment,
        Literal(char),
    }
    let mut out = String::with_capacity(text.len());
    let mut state = In::Code;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let mut shown = ' ';
        match &state {
            In::Code if c == '/' && chars.peek() == Some(&'/') => state = In::LineComment,
            In::Code if c == '/' && chars.peek() == Some(&'*') => {
                chars.next();
                out.push(' ');
                state = In::BlockComment;
            }
            In::Code => {
                shown = c;
                if c == '"' || c == '\'' {
                    state = In::Literal(c);
                }
            }
            In::LineComment if c == '\n' => state = In::Code,
            In::BlockComment if c == '*' && chars.peek() == Some(&'/') => {
                chars.next();
                out.push(' ');
                state = In::Code;
            }
            In::Literal(_) if c == '\\' => {
                out.extend(
                    chars
                        .next()
                        .map(|escaped| if escaped == '\n' { '\n' } else { ' ' }),
                );
            }
            In::Literal(quote) if c == *quote || c == '\n' => {
                shown = c;
                state = In::Code;
            }
            In::LineComment | In::BlockComment | In::Literal(_) => {}
        }
        out.push(if c == '\n' { '\n' } else { shown });
    }
    out
}

/// Finds functions, and macros that stand for them, that are too long.
fn functions(source: &Source, scan: &Scan) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut too_long = |first: usize, last: usize| {
        let lines = last + 1 - first;
        if lines > MAX_FUNCTION_LINES {
            let message = format!("{lines} lines; a function has at most {MAX_FUNCTION_LINES}");
            problems.push(source.problem(first, message));
        }
    };
    let mut depth = 0_usize;
    let mut head = String::new();
    let mut first = 0;
    let mut is_function = false;
    let mut macro_first = None;
    for (line, code) in (1..).zip(&scan.lines) {
        if code.directive {
            let start = *macro_first.get_or_insert(line);
            if !code.text.trim_end().ends_with('\\') {
                too_long(start, line);
                macro_first = None;
            }
            continue;
        }
        for c in code.text.chars() {
            match c {
                '{' => {
                    is_function |= depth == 0 && heads_function(&head);
                    depth += 1;
                }
                '}' => {
                    depth = depth.saturating_sub(1);
                    if depth == 0 {
                        if std::mem::take(&mut is_function) {
                            too_long(first, line);
                        }
                        head.clear();
                    }
                }
                ';' if depth == 0 => head.clear(),
                _ if depth == 0 && (!head.is_empty() || !c.is_whitespace()) => {
                    if head.is_empty() {
                        first = line;
                    }
                    head.push(c);
                }
                _ => {}
            }
        }
        if depth == 0 && !head.is_empty() {
            head.push(' ');
        }
    }
    if depth != 0 {
        let message = "braces do not balance: is half a block inside an #if?";
        problems.push(source.problem(scan.lines.len(), message));
    }
    problems
}

/// Whether `head`, all that stands before a brace at file level, begins a function.
fn heads_function(head: &str) -> bool {
    head.trim_end().ends_with(')') && !head.contains('=') && !head.starts_with("typedef ")
}

/// Whether a line defines a program or a map. A variable may choose its section.
fn defines(code: &str, text: &str) -> bool {
    let variable = [".data", ".rodata", ".bss"]
        .iter()
        .any(|s| text.contains(&format!("SEC(\"{s}")));
    has_word(code, &["SEC", "BPF_STRUCT_OPS"]) && !variable
}

fn has_word(text: &str, words: &[&str]) -> bool {
    text.split(|c: char| !c.is_alphanumeric() && c != '_')
        .any(|word| words.contains(&word))
}

fn tells_kernels_apart(text: &str) -> bool {
    let versioned = text
        .match_indices("___v")
        .any(|(at, suffix)| text[at + suffix.len()..].starts_with(|c: char| c.is_ascii_digit()));
    versioned || has_word(text, &["LINUX_KERNEL_VERSION", "KERNEL_VERSION"])
}

fn columns(line: &str) -> usize {
    line.chars().fold(0, |column, c| {
        if c == '\t' {
            (column / TAB + 1) * TAB
        } else {
            column + 1
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::source;
    use super::*;

    fn messages(path: &str, text: &str) -> Vec<String> {
        check(&source(path, text))
            .iter()
            .map(Problem::to_string)
            .collect()
    }

    fn function(head: &str, lines: usize) -> String {
        format!("{head}\n{{\n{}}}\n", "\tstep();\n".repeat(lines - 3))
    }

    #[test]
    fn functions_are_measured_from_their_head() {
        assert!(messages("a.bpf.c", &function("int f(void)", 70)).is_empty());
        for head in [
            "static int f(struct task *p, u64 flags)",
            "void BPF_STRUCT_OPS(f, s32 cpu)",
        ] {
            let found = messages("a.bpf.c", &format!("int x = 1;\n\n{}", function(head, 71)));
            assert_eq!(
                found,
                ["a.bpf.c:3: 71 lines; a function has at most 70"],
                "{head}"
            );
        }
        let split = function("static __always_inline int\nf(int a,\n  int b)", 69);
        let found = messages("a.h", &split);
        assert_eq!(found, ["a.h:1: 71 lines; a function has at most 70"]);
    }

    #[test]
    fn tables_and_types_may_be_long_but_macros_may_not() {
        for head in [
            "struct f",
            "enum f",
            "struct ops f =",
            "typedef struct __packed(1)",
        ] {
            let text = function(head, 90).replace("}\n", "};\n");
            assert!(messages("a.h", &text).is_empty(), "{head}");
        }
        let text = format!("#define F(x) \\\n{}\tend()\n", "\tstep(); \\\n".repeat(69));
        assert_eq!(
            messages("a.h", &text),
            ["a.h:1: 71 lines; a function has at most 70"]
        );
    }

    #[test]
    fn braces_in_comments_and_strings_do_not_count() {
        let text = "/* { */ int f(void)\n{\n\tchar c = '{';\n\tlog(\"{ \\\" {\"); // {\n}\n";
        assert!(messages("a.c", text).is_empty());
        let open = messages("a.c", "int f(void)\n{\n");
        assert_eq!(
            open,
            ["a.c:2: braces do not balance: is half a block inside an #if?"]
        );
    }

    #[test]
    fn shared_headers_hold_no_program_outside_a_macro() {
        let program = "SEC(\"struct_ops\") int f(void);\n";
        let message = "a shared header defines programs and maps only through a macro";
        let shared = "bpf-common/include/rota/dsq.bpf.h";
        assert_eq!(
            messages(shared, program),
            [format!("{shared}:1: {message}")]
        );
        assert!(messages(shared, &format!("#define PROGRAM \\\n\t{program}")).is_empty());
        assert!(messages(shared, "/* SEC(x) */\n").is_empty());
        assert!(messages(shared, "char dump[1] SEC(\".data.dump\");\n").is_empty());
        assert_eq!(messages(shared, "struct {} map SEC(\".maps\");\n").len(), 1);
        assert!(messages("scheds/scx_a/src/bpf/a.bpf.c", program).is_empty());
    }

    #[test]
    fn kernel_differences_stay_in_the_compat_headers() {
        let lines = ["u32 v = LINUX_KERNEL_VERSION;\n", "int f___v2(void);\n"];
        for line in lines {
            let found = messages("bpf-common/include/rota/dsq.bpf.h", line);
            assert!(
                found[0].ends_with("belong in compat.bpf.h and kfuncs.bpf.h"),
                "{found:?}"
            );
            assert!(messages("bpf-common/include/rota/compat.bpf.h", line).is_empty());
        }
        assert!(messages("a.bpf.c", "/* f___v2 is since 6.19 */\nint f___value;\n").is_empty());
    }

    #[test]
    fn kconfig_is_refused_everywhere() {
        let found = messages(
            "bpf-common/include/rota/compat.bpf.h",
            "extern int X __kconfig;\n",
        );
        assert_eq!(found.len(), 1);
    }

    #[test]
    fn a_tab_reaches_to_the_next_eighth_column() {
        assert_eq!(columns("\tx"), 9);
        assert_eq!(columns("ab\tx"), 9);
        let line = format!("{}x\n", "\t".repeat(13));
        assert_eq!(
            messages("a.h", &line),
            ["a.h:1: 105 columns; a line has at most 100"]
        );
    }
}
