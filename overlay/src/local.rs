//! The local control socket: how `status`, `invite` and the like reach a running program.
//!
//! # Theory of operation
//! A request is one line of JSON, its answer another; a connection may carry many. The server
//! hands each to the program's one event loop as a [`Call`] and writes what comes back, with a
//! descriptor if one is handed over; none is ever taken. Who may connect is said by the permissions
//! of the folder, mode 0700.
//!
//! # Limits
//! [`CONNECTIONS_MAX`] at once (more wait), [`REQUEST_LEN_MAX`] and [`ANSWER_LEN_MAX`] bytes a
//! line, [`ANSWER_AFTER_MAX`] for an answer.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::cmsg_space;
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType,
    UnixAddr, bind, listen, recvmsg, sendmsg, socket,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::io::{
    AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader as AsyncBufReader, Interest,
};
use tokio::net::{UnixListener, UnixStream as AsyncUnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::state;
use crate::sys::own;

/// Most connections at once.
pub const CONNECTIONS_MAX: usize = 16;
/// Longest request, in bytes.
pub const REQUEST_LEN_MAX: u64 = 64 * 1024;
/// Longest answer, in bytes: a status of 500 guests is a tenth of it.
pub const ANSWER_LEN_MAX: u64 = 4 * 1024 * 1024;
/// Most of an answer that comes together with a descriptor at once.
const FIRST_PART_LEN_MAX: usize = 4096;
/// How long either side waits for the other.
pub const ANSWER_AFTER_MAX: Duration = Duration::from_secs(10);
/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;
/// Requests that wait for the event loop.
const CALLS_MAX: usize = 16;

/// A request and the way back to whoever made it.
#[derive(Debug)]
pub struct Call<Q> {
    /// What was asked.
    pub request: Q,
    /// Which user asks, as the kernel knows it.
    pub uid: u32,
    /// Takes the answer; dropped, the asker is told that there is none.
    pub answer: oneshot::Sender<Answer>,
}

/// An answer, and a descriptor that goes to the asker with it, if there is one.
#[derive(Debug)]
pub struct Answer {
    /// What is said.
    pub value: Value,
    /// What is handed over.
    pub fd: Option<OwnedFd>,
}

impl From<Value> for Answer {
    fn from(value: Value) -> Self {
        Self { value, fd: None }
    }
}

/// A listening socket; its file is gone when this is dropped.
#[derive(Debug)]
pub struct Server<Q> {
    calls: mpsc::Receiver<Call<Q>>,
    _bound: Bound,
}

/// A socket with its place in the file system, at which nobody listens yet: whoever asks is told
/// that no program runs. Its file is gone when this is dropped, as far as the process may do that.
#[derive(Debug)]
pub struct Bound {
    socket: OwnedFd,
    path: PathBuf,
}

impl Bound {
    /// Takes the path, where a dead program's socket makes way.
    ///
    /// Whoever holds the store may do this, nobody else: the store's lock says that the socket's
    /// owner is dead.
    ///
    /// # Errors
    /// The system's.
    pub fn at(path: &Path) -> io::Result<Self> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        with_short_path(path, |short| Ok(bind(socket.as_raw_fd(), &UnixAddr::new(&short)?)?))?;
        state::give_socket_to_sudo_user(path)?;
        Ok(Self { socket, path: path.to_owned() })
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        // Gone already, or the helper's to remove.
        let _ = fs::remove_file(&self.path);
    }
}

impl<Q: DeserializeOwned + Send + 'static> Server<Q> {
    /// Listens. Must run inside a tokio runtime.
    ///
    /// # Errors
    /// The system's.
    pub fn listen(bound: Bound) -> io::Result<Self> {
        listen(&bound.socket, Backlog::new(BACKLOG)?)?;
        let listener = std::os::unix::net::UnixListener::from(bound.socket.try_clone()?);
        let listener = UnixListener::from_std(listener)?;
        let (sender, calls) = mpsc::channel(CALLS_MAX);
        tokio::spawn(accept(listener, sender));
        Ok(Self { calls, _bound: bound })
    }

    /// Returns the next request.
    pub async fn call(&mut self) -> Call<Q> {
        match self.calls.recv().await {
            Some(call) => call,
            None => std::future::pending().await, // the accepting task has ended: nobody asks
        }
    }
}

async fn accept<Q: DeserializeOwned + Send + 'static>(
    listener: UnixListener,
    calls: mpsc::Sender<Call<Q>>,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    while !calls.is_closed() {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        tokio::select! {
            () = calls.closed() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let calls = calls.clone();
                    tokio::spawn(async move {
                        if let Err(error) = serve(stream, calls).await {
                            tracing::debug!(%error, "a local request failed");
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the local socket takes no connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
}

async fn serve<Q: DeserializeOwned>(
    stream: AsyncUnixStream,
    calls: mpsc::Sender<Call<Q>>,
) -> io::Result<()> {
    let uid = stream.peer_cred()?.uid();
    let (reading, mut writing) = stream.into_split();
    let mut reading = AsyncBufReader::new(reading);
    loop {
        let mut line = Vec::new();
        let limited = (&mut reading).take(REQUEST_LEN_MAX);
        tokio::pin!(limited);
        if limited.read_until(b'\n', &mut line).await? == 0 {
            return Ok(());
        }
        let Answer { value, fd } = match serde_json::from_slice(&line) {
            Err(error) => json!({ "error": format!("no such request: {error}") }).into(),
            Ok(request) => {
                let (sender, receiver) = oneshot::channel();
                let asked = calls.send(Call { request, uid, answer: sender }).await.is_ok();
                let answered = tokio::time::timeout(ANSWER_AFTER_MAX, receiver).await;
                match answered {
                    Ok(Ok(answer)) if asked => answer,
                    _ => json!({ "error": "the program is busy or about to end" }).into(),
                }
            }
        };
        let mut line = value.to_string().into_bytes();
        line.push(b'\n');
        let sent = match &fd {
            Some(fd) => hand_over(writing.as_ref(), &line, fd).await?,
            None => 0,
        };
        writing.write_all(&line[sent..]).await?;
        if line.last() != Some(&b'\n') {
            return Ok(()); // cut off by the bound, or by the end
        }
    }
}

/// Sends the start of an answer, and a descriptor with it; returns how much went.
async fn hand_over(socket: &AsyncUnixStream, line: &[u8], fd: &OwnedFd) -> io::Result<usize> {
    let fds = [fd.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&fds)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    let send = || {
        let line = [IoSlice::new(line)];
        Ok(sendmsg::<()>(socket.as_raw_fd(), &line, &rights, flags, None)?)
    };
    socket.async_io(Interest::WRITABLE, send).await
}

/// The asking side, for commands that run and end.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects; `None` if no program listens there.
    ///
    /// # Errors
    /// [`LocalError::Connect`], when it is there and may not be used.
    pub fn connect(path: &Path) -> Result<Option<Self>, LocalError> {
        let connected = dial(path).and_then(|stream| stream.map(Self::over).transpose());
        connected.map_err(|source| LocalError::Connect { path: path.to_owned(), source })
    }

    /// Asks over a connection that was [`dial`]led, perhaps by another process.
    ///
    /// # Errors
    /// The system's.
    pub fn over(stream: UnixStream) -> io::Result<Self> {
        stream.set_read_timeout(Some(ANSWER_AFTER_MAX))?;
        stream.set_write_timeout(Some(ANSWER_AFTER_MAX))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// [`LocalError::Refused`] with the program's words, [`LocalError::Io`].
    pub fn ask(&mut self, request: &impl Serialize) -> Result<Value, LocalError> {
        self.say(request)?;
        self.read_answer(Vec::new())
    }

    /// Asks for a descriptor, which comes with the answer.
    ///
    /// # Errors
    /// As [`Client::ask`]; an answer without a descriptor is none.
    pub fn ask_fd(&mut self, request: &impl Serialize) -> Result<(Value, OwnedFd), LocalError> {
        let (value, fd) = self.ask_for_fd(request)?;
        Ok((value, fd.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?))
    }

    /// Asks for a descriptor, which may come with the answer.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub fn ask_for_fd(
        &mut self,
        request: &impl Serialize,
    ) -> Result<(Value, Option<OwnedFd>), LocalError> {
        self.say(request)?;
        let mut buffer = vec![0; FIRST_PART_LEN_MAX];
        let mut space = cmsg_space!([RawFd; 1]);
        let mut slices = [IoSliceMut::new(&mut buffer)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        // Nothing waits in the reader: answers come one by one, and each was read to its end.
        let socket = self.stream.get_ref().as_raw_fd();
        let received = recvmsg::<()>(socket, &mut slices, Some(&mut space), flags);
        let received = received.map_err(io::Error::from)?;
        let mut fds = Vec::new();
        for control in received.cmsgs().map_err(io::Error::from)? {
            if let ControlMessageOwned::ScmRights(raw) = control {
                fds.extend(raw.into_iter().map(own));
            }
        }
        let len = received.bytes;
        buffer.truncate(len);
        Ok((self.read_answer(buffer)?, fds.into_iter().next()))
    }

    fn say(&mut self, request: &impl Serialize) -> Result<(), LocalError> {
        let mut line = serde_json::to_vec(request).map_err(io::Error::other)?;
        line.push(b'\n');
        Ok(self.stream.get_mut().write_all(&line)?)
    }

    /// Reads what is left of an answer.
    fn read_answer(&mut self, mut answer: Vec<u8>) -> Result<Value, LocalError> {
        if answer.last() != Some(&b'\n') {
            (&mut self.stream).take(ANSWER_LEN_MAX).read_until(b'\n', &mut answer)?;
        }
        if answer.is_empty() {
            return Err(LocalError::Io(io::ErrorKind::UnexpectedEof.into()));
        }
        let answer: Value = serde_json::from_slice(&answer).map_err(io::Error::other)?;
        match answer.get("error").and_then(Value::as_str) {
            Some(words) => Err(LocalError::Refused(words.to_owned())),
            None => Ok(answer),
        }
    }
}

/// Why a running program did not answer.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The socket may not be used.
    #[error("the program behind {} cannot be asked", path.display())]
    Connect {
        /// Which socket.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// It said no.
    #[error("{0}")]
    Refused(String),
    /// It went away, or did not answer in time.
    #[error("the running program did not answer")]
    Io(#[from] io::Error),
}

/// Connects to a program's socket; `None` if no program listens there.
///
/// # Errors
/// The system's, when it is there and may not be used.
pub fn dial(path: &Path) -> io::Result<Option<UnixStream>> {
    match with_short_path(path, UnixStream::connect) {
        Ok(stream) => Ok(Some(stream)),
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Ok(None),
            _ => Err(error),
        },
    }
}

/// Calls `f` with a path that fits into a socket address (108 bytes), however long `path` is.
fn with_short_path<T>(path: &Path, f: impl FnOnce(PathBuf) -> io::Result<T>) -> io::Result<T> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let folder = File::open(folder)?;
    f(Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers each request with its double until the server is dropped.
    async fn double(mut server: Server<u64>) {
        loop {
            let call = server.call().await;
            let _ = call.answer.send(json!({ "double": call.request * 2 }).into());
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn requests_are_answered_in_turn_and_nonsense_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x".repeat(100)).join("s.sock");
        fs::create_dir(path.parent().expect("a folder")).expect("made");
        let task = tokio::spawn(double(
            Server::listen(Bound::at(&path).expect("bound")).expect("listening"),
        ));
        let asked = path.clone();
        tokio::task::spawn_blocking(move || {
            let mut client = Client::connect(&asked).expect("allowed").expect("listening");
            assert_eq!(client.ask(&4).expect("answered"), json!({ "double": 8 }));
            assert!(matches!(client.ask(&"four"), Err(LocalError::Refused(_))));
            assert_eq!(client.ask(&5).expect("answered"), json!({ "double": 10 }));
            let long = "x".repeat(usize::try_from(REQUEST_LEN_MAX).expect("small") * 2);
            assert!(client.ask(&long).is_err());
        })
        .await
        .expect("no panic");
        task.abort();
        let _ = task.await;
        assert!(!path.exists(), "the socket's file is gone");
        assert!(Client::connect(&path).expect("allowed").is_none());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_descriptor_comes_with_its_answer_and_an_answer_without_one_is_none() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("s.sock");
        let mut server: Server<bool> =
            Server::listen(Bound::at(&path).expect("bound")).expect("listening");
        let (mut ours, theirs) = UnixStream::pair().expect("a pair");
        let task = tokio::spawn(async move {
            let mut theirs = Some(OwnedFd::from(theirs));
            loop {
                let call = server.call().await;
                let fd = theirs.take().filter(|_| call.request);
                // Longer than what comes at once with a descriptor.
                let value = json!({ "words": "x".repeat(FIRST_PART_LEN_MAX * 2) });
                let _ = call.answer.send(Answer { value, fd });
            }
        });
        let asked = path.clone();
        tokio::task::spawn_blocking(move || {
            let mut client = Client::connect(&asked).expect("allowed").expect("listening");
            let (value, fd) = client.ask_fd(&true).expect("handed over");
            assert_eq!(value["words"].as_str().map(str::len), Some(FIRST_PART_LEN_MAX * 2));
            ours.write_all(b"hello").expect("open");
            let mut heard = [0; 5];
            UnixStream::from(fd).read_exact(&mut heard).expect("the other end");
            assert_eq!(&heard, b"hello");
            assert!(client.ask_fd(&false).is_err());
            assert!(client.ask(&true).is_ok(), "the connection lives on");
        })
        .await
        .expect("no panic");
        task.abort();
    }
}
