use std::fs;
use std::io::{Read, Write};
use std::os::linux::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::*;

/// Long enough for anything that happens at all.
const PATIENCE: Duration = Duration::from_secs(10);

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ovl-{}-{name}", std::process::id()));
        fs::create_dir(&path).expect("a new folder");
        Self(path)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("g.sock")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A port: the seat is looked at by one thread, the pump is another.
struct Port {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Drop for Port {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            thread.join().expect("no panic");
        }
    }
}

fn start(path: &Path) -> (Port, OwnedFd, Receiver<StreamNews>) {
    let (sender, news) = channel();
    let mut seat = StreamSeat::take(path).expect("a place");
    let (ends, cable) = seat.open(1500).expect("opens");
    let pump = thread::spawn(move || Pump::new(ends).run().expect("it can wait"));
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stop);
    let looker = thread::spawn(move || {
        while !told.load(Ordering::Acquire) {
            if let Some(one) = seat.look() {
                let _ = sender.send(one);
            }
            let mut fds: Vec<_> = seat.fds().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
            wait(&mut fds, PollTimeout::from(20_u16)).expect("it can wait");
        }
    });
    (Port { stop, threads: vec![looker, pump] }, cable, news)
}

fn expect(news: &Receiver<StreamNews>, start: &str) {
    let word = format!("{:?}", news.recv_timeout(PATIENCE).expect(start));
    assert!(word.starts_with(start), "{word} instead of {start}");
}

fn record(frame: &[u8]) -> Vec<u8> {
    [&(frame.len() as u32).to_be_bytes(), frame].concat()
}

/// Waits until the data plane's end has a frame, and returns it without its header.
fn take(cable: &OwnedFd) -> Vec<u8> {
    let mut fds = [PollFd::new(cable.as_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut fds, PollTimeout::from(10_000_u16)), Ok(1), "nothing came");
    let mut bytes = vec![0; 70_000];
    let len = read(cable, &mut bytes).expect("readable");
    assert_eq!(bytes[..12], [0; 12]);
    bytes[12..len].to_vec()
}

fn put(cable: &OwnedFd, frame: &[u8]) {
    write(cable, &[&[0; 12], frame].concat()).expect("room");
}

/// Waits until frames go out to the peer: what was in the cable before is not for it.
fn is_served(mut peer: &UnixStream, cable: &OwnedFd) {
    peer.write_all(&record(b"true")).expect("written");
    assert_eq!(take(cable), b"true");
}

/// Reads one frame as the peer does.
fn hear(mut peer: &UnixStream) -> Vec<u8> {
    peer.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut len = [0; 4];
    peer.read_exact(&mut len).expect("a length");
    let mut frame = vec![0; u32::from_be_bytes(len) as usize];
    peer.read_exact(&mut frame).expect("a frame");
    frame
}

#[test]
fn frames_pass_both_ways_and_the_next_peer_is_served_after_the_first() {
    let folder = Folder::new("both");
    let (port, cable, news) = start(&folder.socket());
    assert_eq!(fs::metadata(folder.socket()).expect("there").st_mode() & 0o777, 0o600);
    let mut first = UnixStream::connect(folder.socket()).expect("listens");
    let mut second = UnixStream::connect(folder.socket()).expect("a backlog");
    expect(&news, "Up");
    second.write_all(&record(b"the second's frame")).expect("written");
    first.write_all(&record(b"the first's frame")).expect("written");
    assert_eq!(take(&cable), b"the first's frame");
    put(&cable, b"for the first one");
    assert_eq!(hear(&first), b"for the first one");
    drop(first);
    expect(&news, "Down(None)");
    expect(&news, "Up");
    assert_eq!(take(&cable), b"the second's frame");
    drop(port);
    assert_eq!(fs::read_dir(&folder.0).expect("a folder").count(), 0, "something is left");
}

#[test]
fn a_server_is_called_again_for_ever_and_survives_our_end() {
    let folder = Folder::new("server");
    let server = UnixListener::bind(folder.socket()).expect("a listener");
    let (port, cable, news) = start(&folder.socket());
    let (mut peer, _) = server.accept().expect("a call");
    expect(&news, "Up");
    peer.write_all(&record(b"one")).expect("written");
    assert_eq!(take(&cable), b"one");
    drop((peer, server));
    expect(&news, "Down(None)");
    // Nobody listens for a while: the path is ours meanwhile, until the server takes it back.
    std::thread::sleep(2 * LOOK_INTERVAL);
    fs::remove_file(folder.socket()).expect("ours");
    let server = UnixListener::bind(folder.socket()).expect("a listener");
    let (mut peer, _) = server.accept().expect("a call");
    expect(&news, "Up");
    peer.write_all(&record(b"two")).expect("written");
    assert_eq!(take(&cable), b"two");
    drop(port);
    assert!(folder.socket().exists(), "the server's socket was removed");
}

#[test]
fn a_lie_ends_that_connection_only() {
    let folder = Folder::new("lies");
    let (_port, cable, news) = start(&folder.socket());
    for lie in [&[0xff; 4][..], &[0; 4], &[0, 1, 0, 0x0e], &[0x80; 100]] {
        let mut peer = UnixStream::connect(folder.socket()).expect("listens");
        expect(&news, "Up");
        peer.write_all(&record(b"true")).expect("written");
        peer.write_all(lie).expect("written");
        expect(&news, "Down(Some(LyingLength");
        assert_eq!(take(&cable), b"true");
    }
    let mut peer = UnixStream::connect(folder.socket()).expect("listens");
    expect(&news, "Up");
    is_served(&peer, &cable);
    peer.write_all(&[0, 0, 0, 9, 1]).expect("written"); // half a frame, for ever
    put(&cable, b"goes out all the same");
    assert_eq!(hear(&peer), b"goes out all the same");
}

#[test]
fn a_peer_that_never_reads_costs_only_its_own_frames() {
    let folder = Folder::new("deaf");
    let (port, cable, news) = start(&folder.socket());
    let mut peer = UnixStream::connect(folder.socket()).expect("listens");
    expect(&news, "Up");
    let frame = [&[0; 12][..], &[7; 1514]].concat();
    let mut taken = 0;
    for _ in 0..20_000 {
        match write(&cable, &frame) {
            Ok(_) => taken += 1,
            Err(errno) => {
                assert_eq!(errno, Errno::EAGAIN);
                std::thread::sleep(Duration::from_micros(10));
            }
        }
    }
    assert!(taken < 5000, "{taken} frames are queued for a peer that reads none");
    peer.write_all(&record(b"still heard")).expect("written");
    assert_eq!(take(&cable), b"still heard");
    drop(port); // and its thread ends
}

#[test]
fn a_data_plane_that_never_reads_holds_the_peer_up_and_nothing_grows() {
    let folder = Folder::new("busy");
    let (_port, cable, news) = start(&folder.socket());
    let mut peer = UnixStream::connect(folder.socket()).expect("listens");
    expect(&news, "Up");
    peer.set_write_timeout(Some(Duration::from_millis(500))).expect("a timeout");
    let bytes = record(&[7; 1514]);
    let mut count = 0;
    while peer.write_all(&bytes).is_ok() {
        count += 1;
        assert!(count < 10_000, "all that was written went somewhere");
    }
    // Nothing of it is lost once it is read.
    for _ in 0..count {
        assert_eq!(take(&cable).len(), 1514);
    }
}

#[test]
fn the_segments_of_a_super_frame_are_whole_frames() {
    let folder = Folder::new("cut");
    let (_port, cable, news) = start(&folder.socket());
    let peer = UnixStream::connect(folder.socket()).expect("listens");
    expect(&news, "Up");
    is_served(&peer, &cable);
    let ip = [0x45, 0, 0x0b, 0xe0, 0, 7, 0, 0, 64, 6, 0, 0, 10, 77, 0, 10, 10, 77, 0, 11];
    let tcp = [0x9c, 0x40, 0, 22, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 16, 2, 0, 0, 0, 0, 0];
    let header = [1, 1, 54, 0, 0xe8, 3, 34, 0, 16, 0, 0, 0];
    let frame = [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0][..], &ip, &tcp, &[7; 3000]].concat();
    write(&cable, &[&header[..], &frame].concat()).expect("room");
    for _ in 0..3 {
        let segment = hear(&peer);
        assert_eq!(segment.len(), 54 + 1000);
        assert_ne!(segment[50..52], [0, 0], "the checksum is missing");
    }
}

#[test]
fn what_cannot_be_a_place_is_said() {
    let folder = Folder::new("places");
    let at = |path: &Path| StreamSeat::take(path).expect_err("refused").to_string();
    let file = folder.0.join("file");
    fs::write(&file, "mine").expect("written");
    assert!(at(&file).contains("is no socket"));
    assert_eq!(fs::read_to_string(&file).expect("there"), "mine");
    assert!(at(&folder.0.join("no/g.sock")).contains("is missing"));
    assert!(at(Path::new("/tmp/g.sock")).contains("anybody may write"));
    assert!(at(&folder.0.join("x".repeat(108))).contains("no path of a socket"));
    let first = StreamSeat::take(&folder.socket()).expect("free");
    assert!(at(&folder.socket()).contains("in use"));
    drop(first);
    // What a killed program left is replaced.
    drop(UnixListener::bind(folder.socket()).expect("a listener"));
    fs::write(folder.0.join("g.sock.lock"), "").expect("written");
    let again = StreamSeat::take(&folder.socket()).expect("a stale socket hinders nobody");
    UnixStream::connect(folder.socket()).expect("listens");
    drop(again);
}
