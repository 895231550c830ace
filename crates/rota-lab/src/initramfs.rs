// SPDX-License-Identifier: GPL-2.0-only
//! Writes an initramfs: a cpio archive in the "newc" form, which every kernel unpacks.
//!
//! No privilege is needed, device nodes included, and the same entries give the same bytes.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::error::{IoContext as _, Result};

const MAGIC: &str = "070701";
const TRAILER: &str = "TRAILER!!!";

const TYPE_DIR: u32 = 0o040_000;
const TYPE_FILE: u32 = 0o100_000;
const TYPE_SYMLINK: u32 = 0o120_000;
const TYPE_CHAR: u32 = 0o020_000;

/// What lies under one path.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    Dir { mode: u32 },
    File { mode: u32, bytes: Vec<u8> },
    HostFile { mode: u32, path: PathBuf },
    Symlink { target: String },
    CharDevice { mode: u32, major: u32, minor: u32 },
}

/// A tree of files for a guest.
#[derive(Debug, Clone, Default)]
pub struct Initramfs {
    // Sorted, so every directory comes before what is in it.
    nodes: BTreeMap<String, Node>,
}

impl Initramfs {
    /// An empty tree.
    pub fn new() -> Self {
        Self::default()
    }

    /// A directory.
    pub fn dir(&mut self, path: &str, mode: u32) -> &mut Self {
        self.add(path, Node::Dir { mode })
    }

    /// A file with these contents.
    pub fn file(&mut self, path: &str, mode: u32, bytes: impl Into<Vec<u8>>) -> &mut Self {
        self.add(
            path,
            Node::File {
                mode,
                bytes: bytes.into(),
            },
        )
    }

    /// A copy of a file of the host, read when the archive is written.
    pub fn host_file(&mut self, path: &str, mode: u32, from: impl Into<PathBuf>) -> &mut Self {
        self.add(
            path,
            Node::HostFile {
                mode,
                path: from.into(),
            },
        )
    }

    /// A symbolic link.
    pub fn symlink(&mut self, path: &str, target: &str) -> &mut Self {
        self.add(
            path,
            Node::Symlink {
                target: target.into(),
            },
        )
    }

    /// A character device.
    pub fn char_device(&mut self, path: &str, mode: u32, major: u32, minor: u32) -> &mut Self {
        self.add(path, Node::CharDevice { mode, major, minor })
    }

    /// Whether something lies under `path`.
    pub fn contains(&self, path: &str) -> bool {
        self.nodes.contains_key(path.trim_matches('/'))
    }

    /// Adds `node` under `path`, and the directories above it that are missing.
    fn add(&mut self, path: &str, node: Node) -> &mut Self {
        let path = path.trim_matches('/');
        let parents = path.match_indices('/').map(|(end, _)| &path[..end]);
        for parent in parents {
            self.nodes
                .entry(parent.into())
                .or_insert(Node::Dir { mode: 0o755 });
        }
        self.nodes.insert(path.into(), node);
        self
    }

    /// Writes the archive into the file `path`.
    pub fn write_file(&self, path: &Path) -> Result<()> {
        let file = fs::File::create(path).at("creating", path)?;
        let mut out = io::BufWriter::new(file);
        self.write(&mut out, path)?;
        out.flush().at("writing", path)
    }

    /// Writes the archive; `name` is for messages.
    fn write(&self, out: &mut dyn Write, name: &Path) -> Result<()> {
        let mut archive = Archive {
            out,
            inode: 0,
            written: 0,
        };
        for (path, node) in &self.nodes {
            match node {
                Node::Dir { mode } => archive.entry(path, TYPE_DIR | mode, (0, 0), b""),
                Node::File { mode, bytes } => archive.entry(path, TYPE_FILE | mode, (0, 0), bytes),
                Node::HostFile { mode, path: from } => {
                    let bytes = fs::read(from).at("reading", from)?;
                    archive.entry(path, TYPE_FILE | mode, (0, 0), &bytes)
                }
                Node::Symlink { target } => {
                    archive.entry(path, TYPE_SYMLINK | 0o777, (0, 0), target.as_bytes())
                }
                Node::CharDevice { mode, major, minor } => {
                    archive.entry(path, TYPE_CHAR | mode, (*major, *minor), b"")
                }
            }
            .at("writing", name)?;
        }
        archive.inode = 0;
        archive.entry(TRAILER, 0, (0, 0), b"").at("writing", name)
    }
}

struct Archive<'a> {
    out: &'a mut dyn Write,
    inode: u32,
    written: usize,
}

impl Archive<'_> {
    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), data: &[u8]) -> io::Result<()> {
        let too_big = |_| io::Error::new(io::ErrorKind::FileTooLarge, "4 GiB is the limit");
        let size = u32::try_from(data.len()).map_err(too_big)?;
        let name_size = u32::try_from(path.len() + 1).map_err(too_big)?;
        self.inode += 1;
        let links = if mode & TYPE_DIR == TYPE_DIR { 2 } else { 1 };
        // uid, gid, mtime, the device it came from and the checksum stay 0.
        let fields = [
            self.inode, mode, 0, 0, links, 0, size, 0, 0, device.0, device.1, name_size, 0,
        ];
        let mut header = String::from(MAGIC);
        for field in fields {
            header += &format!("{field:08x}");
        }
        self.put(header.as_bytes())?;
        self.put(path.as_bytes())?;
        self.put(b"\0")?;
        self.align()?;
        self.put(data)?;
        self.align()
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len();
        self.out.write_all(bytes)
    }

    /// Header and data each start at a multiple of four.
    fn align(&mut self) -> io::Result<()> {
        let padding = self.written.next_multiple_of(4) - self.written;
        self.put(&b"\0\0\0"[..padding])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Eq)]
    struct Entry {
        name: String,
        mode: u32,
        device: (u32, u32),
        data: Vec<u8>,
    }

    /// Reads an archive by the description of the format (initramfs-buffer-format).
    fn parse(bytes: &[u8]) -> Vec<Entry> {
        let mut at = 0;
        let mut entries = Vec::new();
        let mut inodes = std::collections::BTreeSet::new();
        loop {
            assert_eq!(&bytes[at..at + 6], b"070701");
            let field = |index: usize| {
                let start = at + 6 + 8 * index;
                let digits = std::str::from_utf8(&bytes[start..start + 8]).unwrap();
                u32::from_str_radix(digits, 16).unwrap()
            };
            let (inode, mode, size, name_size) = (field(0), field(1), field(6), field(11));
            let device = (field(9), field(10));
            let name_end = at + 110 + name_size as usize;
            let name = std::str::from_utf8(&bytes[at + 110..name_end - 1])
                .unwrap()
                .to_owned();
            assert_eq!(bytes[name_end - 1], 0, "a name ends with NUL");
            let start = name_end.next_multiple_of(4);
            let end = start + size as usize;
            assert!(bytes[name_end..start].iter().all(|&byte| byte == 0));
            if name == "TRAILER!!!" {
                assert_eq!(end.next_multiple_of(4), bytes.len());
                return entries;
            }
            assert!(inodes.insert(inode), "inode {inode} twice");
            entries.push(Entry {
                name,
                mode,
                device,
                data: bytes[start..end].to_vec(),
            });
            at = end.next_multiple_of(4);
        }
    }

    fn written(tree: &Initramfs) -> Vec<u8> {
        let mut bytes = Vec::new();
        tree.write(&mut bytes, Path::new("test")).unwrap();
        bytes
    }

    #[test]
    fn every_kind_of_entry_is_read_back() {
        let mut tree = Initramfs::new();
        tree.symlink("/init", "rota/bin/rota-guest")
            .file("/etc/passwd", 0o644, "root:x:0:0::/:/bin/sh\n")
            .char_device("/dev/console", 0o600, 5, 1)
            .dir("/tmp", 0o1777)
            .file("/empty", 0o600, "");
        let entry = |name: &str, mode, device, data: &str| Entry {
            name: name.into(),
            mode,
            device,
            data: data.into(),
        };
        assert_eq!(
            parse(&written(&tree)),
            [
                entry("dev", 0o40755, (0, 0), ""),
                entry("dev/console", 0o20600, (5, 1), ""),
                entry("empty", 0o100600, (0, 0), ""),
                entry("etc", 0o40755, (0, 0), ""),
                entry("etc/passwd", 0o100644, (0, 0), "root:x:0:0::/:/bin/sh\n"),
                entry("init", 0o120777, (0, 0), "rota/bin/rota-guest"),
                entry("tmp", 0o41777, (0, 0), ""),
            ]
        );
    }

    #[test]
    fn names_and_contents_of_any_length_stay_aligned() {
        let mut tree = Initramfs::new();
        for length in 0..9 {
            tree.file(&"n".repeat(length + 1), 0o644, vec![b'x'; 8 - length]);
        }
        let entries = parse(&written(&tree));
        assert_eq!(entries.len(), 9);
        assert!(
            entries
                .iter()
                .all(|entry| entry.name.len() + entry.data.len() == 9)
        );
    }

    #[test]
    fn parents_come_first_and_keep_the_mode_they_were_given() {
        let mut tree = Initramfs::new();
        tree.file("a/b/c", 0o644, "").dir("a", 0o700);
        let entries = parse(&written(&tree));
        let seen: Vec<_> = entries
            .iter()
            .map(|entry| (entry.name.as_str(), entry.mode))
            .collect();
        assert_eq!(
            seen,
            [("a", 0o40700), ("a/b", 0o40755), ("a/b/c", 0o100644)]
        );
    }

    #[test]
    fn the_same_tree_gives_the_same_bytes() {
        let tree = |names: [&str; 2]| {
            let mut tree = Initramfs::new();
            for name in names {
                tree.file(name, 0o644, name);
            }
            written(&tree)
        };
        assert_eq!(tree(["x/1", "x/2"]), tree(["x/2", "x/1"]));
    }

    #[test]
    fn a_host_file_is_read_when_it_is_needed_and_named_when_it_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("program");
        let mut tree = Initramfs::new();
        tree.host_file("bin/program", 0o755, &file);
        let error = tree
            .write(&mut Vec::new(), Path::new("test"))
            .unwrap_err()
            .to_string();
        assert!(error.contains(file.to_str().unwrap()), "{error}");
        fs::write(&file, "\x7fELF").unwrap();
        assert_eq!(parse(&written(&tree))[1].data, b"\x7fELF");
    }
}
