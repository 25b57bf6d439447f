//! The asking command's side of a capture: reads records, writes pcapng.
//!
//! # Theory of operation
//! The output is chosen and checked before the first record; then one loop waits for records, for
//! a signal and for the output's reader to go. What was read is written through whenever no record
//! waits, so that a live reader sees a frame at once. A signal ends the file as it should end.
//!
//! # Limits
//! A file that exists is never overwritten, a terminal never written to. The file has no bound but
//! `--count` and the disk.

use std::fs::OpenOptions;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::{Args, value_parser};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::SignalFd;
use nix::sys::socket::{MsgFlags, recv};
use overlay_proto::control::Detail;
use vde_switch::frame::FRAME_LEN_MAX;

use super::{CAPTURES_MAX, Captured, HEADERS_LEN_MAX, Record, SNAPLEN_MAX, Writer};
use crate::clock;
use crate::exit::{Exit, Fault};
use crate::state::give_to_sudo_user;

/// Records that are written before a signal is looked for.
const RECORDS_A_TURN: usize = 64;

/// How a capture is asked for, the same in both programs.
#[derive(Clone, Debug, Args)]
pub struct PcapArgs {
    /// Captures whole frames, payloads too, instead of headers alone
    #[arg(long)]
    pub full: bool,

    /// Stops after this many frames
    #[arg(long, value_name = "N", value_parser = value_parser!(u64).range(1..))]
    pub count: Option<u64>,

    /// Writes a new file, readable by its owner alone [default: stdout, as does -]
    #[arg(short = 'w', long = "write", value_name = "FILE")]
    pub write: Option<PathBuf>,
}

impl PcapArgs {
    /// Returns how much of each frame is wanted.
    #[must_use]
    pub const fn detail(&self) -> Detail {
        if self.full { Detail::Frames } else { Detail::Headers }
    }

    fn file(&self) -> Option<&Path> {
        self.write.as_deref().filter(|path| *path != Path::new("-"))
    }

    /// Refuses what cannot be written to, before anything is asked for.
    ///
    /// # Errors
    /// [`Fault`]: stdout is a terminal, or the file is there already.
    pub fn check(&self) -> Result<(), Fault> {
        match self.file() {
            None if io::stdout().is_terminal() => {
                let text = "a capture is not written to a terminal: give -w FILE, or a pipe such \
                            as `| tcpdump -r -`";
                Err(Fault::new(Exit::Usage, text))
            }
            Some(path) if path.symlink_metadata().is_ok() => Err(exists(path)),
            _ => Ok(()),
        }
    }

    fn open(&self) -> Result<Box<dyn Write>, Fault> {
        let Some(path) = self.file() else { return Ok(Box::new(io::stdout().lock())) };
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let file = file.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => exists(path),
            _ => cannot(path, &error),
        })?;
        give_to_sudo_user(&file).map_err(|error| cannot(path, &error))?;
        Ok(Box::new(file))
    }
}

fn exists(path: &Path) -> Fault {
    let text = format!("{} exists and is not overwritten: name another file", path.display());
    Fault::new(Exit::Failed, text)
}

fn cannot(path: &Path, error: &io::Error) -> Fault {
    Fault::new(Exit::Failed, format!("{} cannot be written: {error}", path.display()))
}

/// Writes what comes from a running program until it ends, a signal, or `--count`.
///
/// Says on stderr how many frames there were and how many are missing.
///
/// # Errors
/// [`Fault`]: the program takes no more captures, or the output fails. A reader that closes its
/// pipe has seen enough, which is none.
pub fn save(
    program: &str,
    args: &PcapArgs,
    captured: &Captured,
    records: &OwnedFd,
) -> Result<(), Fault> {
    let mut buffer = vec![0; Record::LEN + FRAME_LEN_MAX];
    if !matches!(recv(records.as_raw_fd(), &mut buffer, MsgFlags::empty()), Ok(1..)) {
        let text = format!(
            "the running program begins no capture: stop one of the {CAPTURES_MAX} that it may \
             have at once"
        );
        return Err(Fault::new(Exit::Failed, text));
    }
    let snaplen = match args.detail() {
        Detail::Headers => u32::try_from(HEADERS_LEN_MAX).unwrap_or(SNAPLEN_MAX),
        Detail::Frames => SNAPLEN_MAX,
    };
    let program = format!("{program} {}", env!("CARGO_PKG_VERSION"));
    let out = BufWriter::new(args.open()?);
    let mut left_out = 0;
    let written = Writer::new(out, &program, &captured.name, &captured.words, snaplen).and_then(
        |mut writer| {
            let ended = copy(args, records, &mut buffer, &mut writer, &mut left_out);
            let frames = writer.frames();
            ended.and_then(|()| {
                let unix_ns = u64::try_from(clock::unix_time().as_nanos()).unwrap_or(u64::MAX);
                writer.end(unix_ns, left_out)?;
                Ok(frames)
            })
        },
    );
    let frames = match written {
        Ok(frames) => frames,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
        Err(error) => {
            let text = format!("the capture cannot be written on: {error}");
            return Err(Fault::new(Exit::Failed, text));
        }
    };
    // With stderr closed nobody is left to be told.
    let _ = writeln!(io::stderr(), "{frames} frames captured, {left_out} left out");
    Ok(())
}

fn copy(
    args: &PcapArgs,
    records: &OwnedFd,
    buffer: &mut [u8],
    writer: &mut Writer<impl Write>,
    left_out: &mut u64,
) -> io::Result<()> {
    writer.flush()?; // what stands before the first frame, for a reader that waits for it
    let mut set = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        set.add(signal);
    }
    set.thread_block()?;
    let signals = SignalFd::new(&set)?;
    let stdout = io::stdout();
    loop {
        let mut fds = [
            PollFd::new(records.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(stdout.as_fd(), PollFlags::empty()),
        ];
        // A pipe's reader that went away says so; of a file, stdout says nothing.
        let watched = if args.file().is_some() { &mut fds[..2] } else { &mut fds[..] };
        match poll(watched, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            other => other?,
        };
        if watched[1..].iter().any(|fd| fd.any() == Some(true)) {
            return Ok(());
        }
        for _ in 0..RECORDS_A_TURN {
            let len = match recv(records.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(0) => return Ok(()),
                Ok(len) => len,
                Err(Errno::EAGAIN | Errno::EINTR) => {
                    writer.flush()?;
                    break;
                }
                Err(error) => return Err(error.into()),
            };
            let Some((record, bytes)) = Record::parse(&buffer[..len]) else {
                return Err(io::Error::other("the running program is of another version"));
            };
            *left_out = record.left_out;
            writer.frame(&record, bytes)?;
            if args.count == Some(writer.frames()) {
                return Ok(());
            }
        }
    }
}
