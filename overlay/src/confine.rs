//! What processes give up: users, namespaces, capabilities, system calls.
//!
//! # Theory of operation
//! A program is started by root and stays root in one small process alone, its *helper*. The
//! others leave root in one of two ways: a process that was forked [`leave_root`]s; one that is a
//! program of its own (the data plane, QEMU) is started by a command that was [`confine`]d, so that
//! nothing of it ever ran with more than it keeps.
//!
//! # Limits
//! Users are numbers in a range that no distribution gives out, except the control process's, who
//! is `overlay` where that user exists. A host that does not map the range (some containers) needs
//! that user.

pub mod seccomp;
mod sys;

use std::env;
use std::ffi::CString;
use std::fs;
use std::os::fd::OwnedFd;
use std::process::ExitCode;

use nix::unistd::User;

pub(crate) use self::sys::fork;
pub use self::sys::{Confinement, Leave, confine, leave_root};
use crate::exit::Exit;

/// Name of the control process's user, if the host has it.
pub const SERVICE_NAME: &str = "overlay";
/// The control process's user on hosts without that name.
const SERVICE_ID: u32 = 0x6fff_0000;
/// Users of data planes begin here; the number of their UDP port is added.
const DATA_PLANES_MIN: u32 = 0x6ffe_0000;
/// Users of pumps begin here; the number of their lease's UDP port is added.
const PUMPS_MIN: u32 = 0x6ffd_0000;
/// Users of pumps whose guest shares another program's lease begin here; the number of the process
/// that started them is added, at most 2^22.
const LONE_PUMPS_MIN: u32 = 0x7040_0000;

/// Returns the user of the control process.
///
/// # Errors
/// [`NoUser`] on a host that neither has it nor maps numbers of its range.
pub fn service_user() -> Result<(u32, u32), NoUser> {
    if let Ok(Some(user)) = User::from_name(SERVICE_NAME) {
        return Ok((user.uid.as_raw(), user.gid.as_raw()));
    }
    if is_mapped(SERVICE_ID) { Ok((SERVICE_ID, SERVICE_ID)) } else { Err(NoUser) }
}

/// Returns the user of the data plane that has a UDP port.
///
/// # Errors
/// [`NoUser`] where numbers of its range are not mapped and there is no service user either.
pub fn data_plane_user(port: u16) -> Result<(u32, u32), NoUser> {
    numbered(DATA_PLANES_MIN, port)
}

/// Returns the user of what serves a guest's stream, beside the data plane that has a UDP port.
///
/// # Errors
/// As [`data_plane_user`].
pub fn pump_user(port: u16) -> Result<(u32, u32), NoUser> {
    numbered(PUMPS_MIN, port)
}

/// As [`pump_user`], beside the data plane of another program: for the process that has started it.
///
/// # Errors
/// As [`data_plane_user`].
pub fn lone_pump_user(process: u32) -> Result<(u32, u32), NoUser> {
    let wanted = LONE_PUMPS_MIN + process;
    if is_mapped(wanted) { Ok((wanted, wanted)) } else { service_user() }
}

fn numbered(first: u32, port: u16) -> Result<(u32, u32), NoUser> {
    let wanted = first + u32::from(port);
    if is_mapped(wanted) { Ok((wanted, wanted)) } else { service_user() }
}

/// Returns the descriptors of a process that was started in a role; `None` if it was not.
///
/// What is left to the process to give up is given up here: its memory is hidden. The error is how
/// a process ends that was started otherwise than by its program.
#[must_use]
pub fn role<const N: usize>(role: &str) -> Option<Result<[OwnedFd; N], ExitCode>> {
    let mut words = env::args_os().skip(1);
    if words.next()? != role {
        return None;
    }
    crate::log::init(0);
    // Started by way of /proc/self/exe, it would be called so.
    let name = env::args().next().and_then(|name| CString::new(name).ok());
    if let Some(name) = name {
        // A name is all that is lost by it.
        let _ = nix::sys::prctl::set_name(&name);
    }
    let numbers: Vec<_> =
        words.map_while(|word| word.to_str().and_then(|word| word.parse().ok())).collect();
    let fds: Vec<_> = numbers.into_iter().map_while(crate::sys::inherited).collect();
    let hidden = crate::sys::hide_memory();
    Some(match (fds.try_into(), hidden) {
        (Ok(fds), Ok(())) => Ok(fds),
        _ => {
            tracing::error!("{role} is for processes that the program starts by itself");
            Err(ExitCode::from(Exit::Usage as u8))
        }
    })
}

/// Whether this host, or the container that it is, knows a user of that number.
#[must_use]
pub fn is_mapped(user: u32) -> bool {
    maps(&fs::read_to_string("/proc/self/uid_map").unwrap_or_default(), user)
}

/// Whether a user namespace knows a user; a line of its map is `first outside count`.
fn maps(map: &str, user: u32) -> bool {
    map.lines().any(|line| {
        let numbers: Vec<u32> = line.split_whitespace().flat_map(str::parse).collect();
        matches!(numbers[..], [first, _, count] if user >= first && user - first < count)
    })
}

/// There is no user to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this host has no user for processes without rights: run `useradd --system --no-create-home \
     --shell /usr/sbin/nologin {SERVICE_NAME}`"
)]
pub struct NoUser;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_one_that_exists_here() {
        let all = "         0          0 4294967295\n";
        assert!(maps(all, SERVICE_ID) && maps(all, DATA_PLANES_MIN + 65535));
        assert!(!maps("0 100000 65536\n", SERVICE_ID));
        assert!(maps("0 100000 65536\n", 65535) && !maps("0 100000 65536\n", 65536));
        assert!(!maps("", 0) && !maps("nonsense\n1 2\n", 1));
    }

    #[test]
    fn what_is_started_confined_has_no_rights_and_no_way_to_them() {
        if !nix::unistd::geteuid().is_root() {
            return; // only root can give rights up
        }
        let mut command = std::process::Command::new("cat");
        command.arg("/proc/self/status");
        let confinement = Confinement {
            user: (SERVICE_ID, SERVICE_ID),
            group: None,
            dir: None,
            keep: Vec::new(),
            file_size_max: u64::MAX,
            data_max: None,
            descriptors_max: None,
        };
        confine(&mut command, confinement);
        let output = command.output().expect("cat runs");
        let status = String::from_utf8(output.stdout).expect("text");
        let fields: Vec<_> = status.lines().filter_map(|line| line.split_once(":\t")).collect();
        let ids = vec![SERVICE_ID.to_string(); 4].join("\t");
        let none = "0000000000000000";
        for expected in [
            ("NoNewPrivs", "1"),
            ("Uid", ids.as_str()),
            ("Gid", ids.as_str()),
            ("CapInh", none),
            ("CapPrm", none),
            ("CapEff", none),
            ("CapBnd", none),
            ("CapAmb", none),
        ] {
            assert!(fields.contains(&expected), "{expected:?} is not in {status}");
        }
    }

    #[test]
    fn no_two_data_planes_of_a_host_share_a_user() {
        assert_ne!(data_plane_user(7770), data_plane_user(7771));
        assert_ne!(data_plane_user(65535), service_user());
        assert_ne!(lone_pump_user(1 << 22), pump_user(0));
    }
}
