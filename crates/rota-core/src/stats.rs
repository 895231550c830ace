// SPDX-License-Identifier: GPL-2.0-only
//! Serves the counters to `--monitor` and to other clients of the scx_stats
//! protocol: a line of JSON asks, a line of JSON answers.
//!
//! The protocol, its types and its client are those of the crate scx_stats. Its
//! server has a thread for each client and reads a line however long it is; a
//! scheduler cannot afford that, so this one serves all clients from the run
//! loop, without blocking, in bounded memory. A client that does not read its
//! answers, or sends something that is no request, only harms itself.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use scx_stats::{StatsMeta, StatsRequest, StatsResponse};
use serde::Serialize;
use serde_json::Value;

/// The socket that clients of any sched_ext scheduler connect to.
pub const SOCKET: &str = "/var/run/scx/root/stats";

/// Clients at a time; beyond that the one that was silent longest has to go.
const MAX_CLIENTS: usize = 256;
/// The longest request; real ones have a few dozen bytes.
const MAX_REQUEST: usize = 4096;
/// Events handled before the run loop looks at everything else again.
const MAX_EVENTS: usize = 32;
/// The key of the listener among the clients' in epoll.
const LISTENER: u64 = u64::MAX;

/// The server; dropped, it removes its socket.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the socket file, to remove no one else's.
    identity: (u64, u64),
    meta: Value,
    epoll: Epoll,
    clients: BTreeMap<u64, Client>,
    next_key: u64,
}

#[derive(Debug)]
struct Client {
    stream: UnixStream,
    request: Vec<u8>,
    /// What the client has yet to read. While there is any, it is not listened to.
    answer: Vec<u8>,
    last_heard: Instant,
}

/// Whether to go on with a client.
#[derive(PartialEq, Eq)]
enum Next {
    Keep,
    Drop,
}

impl Server {
    /// Listens at `path`, where a socket file that nobody listens at any more is
    /// replaced.
    pub fn listen(path: &Path, meta: StatsMeta) -> io::Result<Self> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        let listener = match UnixListener::bind(path) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                reclaim(path)?;
                UnixListener::bind(path)?
            }
            result => result?,
        };
        listener.set_nonblocking(true)?;
        let file = fs::symlink_metadata(path)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
        let meta = BTreeMap::from([(meta.name.clone(), meta)]);
        Ok(Server {
            listener,
            path: path.into(),
            identity: (file.dev(), file.ino()),
            meta: serde_json::to_value(meta)?,
            epoll,
            clients: BTreeMap::new(),
            next_key: 0,
        })
    }

    /// Does what clients wait for, without waiting for any of them. `stats` is
    /// asked for the counters.
    pub fn serve(&mut self, stats: &mut dyn FnMut() -> Value) {
        let mut events = [EpollEvent::empty(); MAX_EVENTS];
        let ready = self
            .epoll
            .wait(&mut events, EpollTimeout::ZERO)
            .unwrap_or(0);
        for event in &events[..ready] {
            match event.data() {
                LISTENER => self.accept(),
                key => self.serve_client(key, stats),
            }
        }
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if self.clients.len() >= MAX_CLIENTS {
                self.drop_most_silent();
            }
            let key = self.next_key;
            self.next_key += 1;
            let event = EpollEvent::new(EpollFlags::EPOLLIN, key);
            if stream.set_nonblocking(true).is_err() || self.epoll.add(&stream, event).is_err() {
                continue;
            }
            let (request, answer) = (Vec::new(), Vec::new());
            let client = Client {
                stream,
                request,
                answer,
                last_heard: Instant::now(),
            };
            self.clients.insert(key, client);
        }
    }

    fn drop_most_silent(&mut self) {
        let silent = self
            .clients
            .iter()
            .min_by_key(|(_, client)| client.last_heard);
        if let Some(key) = silent.map(|(key, _)| *key) {
            // Closing the last descriptor of a socket takes it out of epoll.
            self.clients.remove(&key);
        }
    }

    fn serve_client(&mut self, key: u64, stats: &mut dyn FnMut() -> Value) {
        let Some(client) = self.clients.get_mut(&key) else {
            return;
        };
        let was_writing = !client.answer.is_empty();
        let answer = |request: &[u8]| answer(request, &self.meta, stats);
        if client.serve(answer) == Next::Drop {
            self.clients.remove(&key);
            return;
        }
        let writes = !client.answer.is_empty();
        if writes != was_writing {
            let wanted = if writes {
                EpollFlags::EPOLLOUT
            } else {
                EpollFlags::EPOLLIN
            };
            if self
                .epoll
                .modify(&client.stream, &mut EpollEvent::new(wanted, key))
                .is_err()
            {
                self.clients.remove(&key);
            }
        }
    }
}

impl AsFd for Server {
    /// Readable when there is something to [`Server::serve`].
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let identity = fs::symlink_metadata(&self.path).map(|file| (file.dev(), file.ino()));
        if identity.is_ok_and(|identity| identity == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Removes the socket that a process left behind; fails if anything else is at
/// `path`, a socket in use included.
fn reclaim(path: &Path) -> io::Result<()> {
    if !fs::symlink_metadata(path)?.file_type().is_socket() {
        return Err(io::Error::new(
            ErrorKind::AlreadyExists,
            "something else has that name",
        ));
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(io::Error::new(
            ErrorKind::AddrInUse,
            "another process listens there",
        )),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) => Err(error),
    }
}

impl Client {
    fn serve(&mut self, mut answer: impl FnMut(&[u8]) -> Vec<u8>) -> Next {
        self.last_heard = Instant::now();
        if self.answer.is_empty() {
            let mut chunk = [0; MAX_REQUEST];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Next::Drop,
                Ok(n) => self.request.extend_from_slice(&chunk[..n]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return Next::Drop,
            }
        }
        loop {
            if self.write() == Next::Drop {
                return Next::Drop;
            }
            let end = self.request.iter().position(|byte| *byte == b'\n');
            match end.filter(|_| self.answer.is_empty()) {
                Some(end) => {
                    let request: Vec<u8> = self.request.drain(..=end).collect();
                    self.answer = answer(&request);
                }
                None if self.request.len() >= MAX_REQUEST && end.is_none() => return Next::Drop,
                None => return Next::Keep,
            }
        }
    }

    fn write(&mut self) -> Next {
        while !self.answer.is_empty() {
            match self.stream.write(&self.answer) {
                Ok(0) => return Next::Drop,
                Ok(n) => drop(self.answer.drain(..n)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return Next::Drop,
            }
        }
        Next::Keep
    }
}

/// The answer to a request, with its newline.
fn answer(request: &[u8], meta: &Value, stats: &mut dyn FnMut() -> Value) -> Vec<u8> {
    let response = match serde_json::from_slice::<StatsRequest>(request) {
        Ok(StatsRequest { req, args }) => match req.as_str() {
            "stats" if args.get("target").is_none_or(|target| target == "top") => {
                response(0, stats())
            }
            "stats" => refusal(format!("unknown target {:?}", args["target"])),
            "stats_meta" => response(0, meta.clone()),
            _ => refusal(format!("unknown request {req:?}")),
        },
        Err(error) => refusal(format!("not a request: {error}")),
    };
    let mut line = serde_json::to_vec(&response).expect("a response has text keys");
    line.push(b'\n');
    line
}

fn response(errno: i32, value: impl Serialize) -> StatsResponse {
    let value = serde_json::to_value(value).expect("counters and texts are JSON");
    StatsResponse {
        errno,
        args: BTreeMap::from([("resp".into(), value)]),
    }
}

fn refusal(message: String) -> StatsResponse {
    response(Errno::EINVAL as i32, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use scx_stats::StatsClient;
    use std::io::{BufRead, BufReader};
    use std::os::unix::fs::PermissionsExt;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;
    use std::time::Duration;

    fn meta() -> StatsMeta {
        StatsMeta {
            name: "Metrics".into(),
            attrs: Default::default(),
            fields: BTreeMap::new(),
        }
    }

    /// Runs `clients` against a server that is served as the run loop does.
    fn served(clients: impl FnOnce(&Path) + Send) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("scx/root/stats");
        let mut server = Server::listen(&path, meta()).unwrap();
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                clients(&path);
                done.store(true, Ordering::Release);
            });
            while !done.load(Ordering::Acquire) {
                crate::signals::wait(&[server.as_fd()], Some(Duration::from_millis(10))).unwrap();
                server.serve(&mut || serde_json::json!({ "nr_x": 7 }));
                assert!(server.clients.len() <= MAX_CLIENTS);
            }
        });
    }

    fn ask(path: &Path) -> Value {
        let mut client = StatsClient::new()
            .set_path(path)
            .connect(Some(5000))
            .unwrap();
        client.request("stats", Vec::new()).unwrap()
    }

    #[test]
    fn the_client_of_scx_stats_is_answered() {
        served(|path| {
            let mut client = StatsClient::new()
                .set_path(path)
                .connect(Some(5000))
                .unwrap();
            for _ in 0..3 {
                assert_eq!(
                    client.request::<Value>("stats", Vec::new()).unwrap()["nr_x"],
                    7
                );
            }
            let meta: BTreeMap<String, StatsMeta> =
                client.request("stats_meta", Vec::new()).unwrap();
            assert!(meta.contains_key("Metrics"));
            let target = vec![("target".into(), "other".into())];
            assert!(client.request::<Value>("stats", target).is_err());
            assert!(client.request::<Value>("nonsense", Vec::new()).is_err());
        });
    }

    #[test]
    fn several_requests_in_one_write_are_all_answered() {
        served(|path| {
            let mut stream = UnixStream::connect(path).unwrap();
            stream
                .write_all(b"{\"req\":\"stats\"}\n{\"req\":\"stats\"}\n{\"re")
                .unwrap();
            stream.write_all(b"q\":\"stats\"}\n").unwrap();
            let answers: Vec<_> = BufReader::new(stream).lines().take(3).collect();
            assert!(
                answers
                    .iter()
                    .all(|line| line.as_ref().unwrap().contains("nr_x"))
            );
        });
    }

    #[test]
    fn garbage_is_refused_and_an_endless_line_dropped() {
        served(|path| {
            let mut stream = UnixStream::connect(path).unwrap();
            stream.write_all(b"\xff\x00 garbage\n").unwrap();
            let mut answer = String::new();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            reader.read_line(&mut answer).unwrap();
            assert!(answer.contains("not a request"), "{answer}");

            // The server hangs up long before a megabyte.
            let _ = stream.write_all(&vec![b'x'; 1 << 20]);
            let mut rest = Vec::new();
            let _ = reader.read_to_end(&mut rest);
            assert_eq!(rest, b"");
            assert_eq!(ask(path)["nr_x"], 7);
        });
    }

    #[test]
    fn a_client_that_never_reads_holds_up_nobody() {
        served(|path| {
            let mut greedy = UnixStream::connect(path).unwrap();
            greedy.set_nonblocking(true).unwrap();
            while greedy.write(&b"{\"req\":\"stats\"}\n".repeat(64)).is_ok() {
                assert_eq!(ask(path)["nr_x"], 7);
            }
            assert_eq!(ask(path)["nr_x"], 7);
        });
    }

    #[test]
    fn silent_clients_make_room() {
        served(|path| {
            let silent: Vec<_> = (0..MAX_CLIENTS + 50)
                .map(|_| UnixStream::connect(path).unwrap())
                .collect();
            assert_eq!(ask(path)["nr_x"], 7);
            drop(silent);
            assert_eq!(ask(path)["nr_x"], 7);
        });
    }

    #[test]
    fn a_stale_socket_is_reclaimed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stats");
        drop(UnixListener::bind(&path).unwrap());
        assert!(
            path.exists(),
            "a process that is killed leaves its socket behind"
        );
        drop(Server::listen(&path, meta()).unwrap());
        assert!(!path.exists(), "a server removes its socket");
    }

    #[test]
    fn what_is_in_use_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stats");
        let first = Server::listen(&path, meta()).unwrap();
        let error = Server::listen(&path, meta()).unwrap_err();
        assert_eq!(error.to_string(), "another process listens there");
        drop(first);

        fs::write(&path, "precious").unwrap();
        assert!(Server::listen(&path, meta()).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        assert!(Server::listen(Path::new("/proc/none/stats"), meta()).is_err());
    }

    #[test]
    fn the_socket_of_another_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stats");
        let server = Server::listen(&path, meta()).unwrap();
        fs::remove_file(&path).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        drop(server);
        assert!(path.exists());
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o002, 0, "only its owner may connect");
    }
}
