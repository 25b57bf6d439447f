//! A TCP connection that lives through whatever a scenario does, and notices when it did not.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::lab::Host;

/// Longest wait for a connection, or for what was said to come back.
const STALL_MAX: Duration = Duration::from_secs(60);

/// One connection between two hosts, whose far end says everything back.
#[derive(Debug)]
pub struct Line {
    stream: TcpStream,
    said: u8,
}

impl Line {
    /// Connects.
    ///
    /// # Errors
    /// When the port is taken or nobody answers.
    pub fn open(from: &Host, to: &Host, ip: impl Into<IpAddr>, port: u16) -> Result<Self> {
        let at = SocketAddr::new(ip.into(), port);
        let listener = to.within(|| TcpListener::bind(at)).with_context(|| format!("{at}"))?;
        thread::spawn(move || echo(&listener));
        let stream = from.within(|| TcpStream::connect_timeout(&at, STALL_MAX));
        let stream = stream.with_context(|| format!("{} does not reach {at}", from.name()))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(STALL_MAX))?;
        stream.set_write_timeout(Some(STALL_MAX))?;
        let mut line = Self { stream, said: 0 };
        line.say(1000)?;
        Ok(line)
    }

    /// Says `len` bytes and waits until they are back; returns how long that took.
    ///
    /// # Errors
    /// When the connection is lost, stalls for a minute, or brings other bytes.
    pub fn say(&mut self, len: usize) -> Result<Duration> {
        let started = Instant::now();
        self.said = self.said.wrapping_add(1);
        let words = vec![self.said; len];
        let mut back = vec![0; len];
        let mut writing = self.stream.try_clone()?;
        thread::scope(|scope| -> Result<()> {
            let writer = scope.spawn(|| writing.write_all(&words));
            self.stream.read_exact(&mut back).context("the connection was lost")?;
            writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))??;
            Ok(())
        })?;
        ensure!(back == words, "the connection brought other bytes than were said");
        Ok(started.elapsed())
    }
}

fn echo(listener: &TcpListener) -> io::Result<()> {
    let (mut stream, _) = listener.accept()?;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            len => stream.write_all(&buffer[..len])?,
        }
    }
}
