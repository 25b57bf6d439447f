//! What somebody who has taken over a lease's data plane could try, from a process like it.
//!
//! # Theory of operation
//! A probe is started exactly as a data plane is, and tries to reach out before it gives up system
//! calls; each try that succeeds is told on a socket. Then one process after the other gives them
//! up and makes one that must end it. Last, a marked socket sends where no stranger may make this
//! host send.

use std::fs::File;
use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::Signal;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, sendmsg, socket,
};
use overlay::confine::{self, data_plane_user, seccomp, service_user};
use overlay::helper::start_role;
use overlay::host::addresses::own_addresses;
use overlay::host::guard::{self, Guard, GuardSpec};
use overlay::ipc;
use vde_attach::tap::{Tap, TapOptions};

use super::sight::Sight;
use super::{Row, sys};

/// First word of the command line of a probe; two descriptors' numbers follow.
const ROLE: &str = "--audit-probe";
/// What a socket of the probe's may take to connect.
const CONNECT_AFTER_MAX: Duration = Duration::from_millis(200);
/// Bytes that a datagram of the guard's test bears.
const MARK: &[u8] = b"overlay-audit-datagram-nobody-means";

/// System calls that must end a data plane, and their names.
const FATAL: [(&str, libc::c_long); 12] = [
    ("socket", libc::SYS_socket),
    ("connect", libc::SYS_connect),
    ("bind", libc::SYS_bind),
    ("open", libc::SYS_openat),
    ("exec", libc::SYS_execve),
    ("fork", libc::SYS_fork),
    ("ioctl", libc::SYS_ioctl),
    ("ptrace", libc::SYS_ptrace),
    ("bpf", libc::SYS_bpf),
    ("io_uring", libc::SYS_io_uring_setup),
    ("unshare", libc::SYS_unshare),
    ("setns", libc::SYS_setns),
];

/// Runs as a probe if this process was started as one; says how it ended.
pub(crate) fn role() -> Option<ExitCode> {
    let [line, question] = match confine::role(ROLE)? {
        Ok(fds) => fds,
        Err(exit) => return Some(exit),
    };
    let Ok((bytes, _)) = ipc::receive(&question) else { return Some(ExitCode::FAILURE) };
    if let Ok(call) = ipc::decode::<i64>(&bytes) {
        if seccomp::enter().is_ok() {
            sys::call(call);
        }
        return Some(ExitCode::SUCCESS); // it lives: the call was let through
    }
    let addresses: Vec<IpAddr> = ipc::decode(&bytes).unwrap_or_default();
    for escaped in escapes(&addresses) {
        let flags = MsgFlags::MSG_NOSIGNAL;
        let told =
            sendmsg::<()>(line.as_raw_fd(), &[IoSlice::new(escaped.as_bytes())], &[], flags, None);
        if told.is_err() {
            return Some(ExitCode::FAILURE);
        }
    }
    Some(ExitCode::SUCCESS)
}

/// Tries to reach out; returns what succeeded.
fn escapes(addresses: &[IpAddr]) -> Vec<String> {
    let mut escaped = Vec::new();
    for ip in addresses {
        for port in [22, 53, 80, 443] {
            let addr = SocketAddr::new(*ip, port);
            if TcpStream::connect_timeout(&addr, CONNECT_AFTER_MAX).is_ok() {
                escaped.push(format!("tcp to {addr}"));
            }
            let any = if ip.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let sent = UdpSocket::bind(any).and_then(|udp| udp.send_to(MARK, addr));
            if sent.is_ok() {
                escaped.push(format!("udp to {addr}"));
            }
        }
    }
    let raw = [
        (AddressFamily::Packet, SockType::Raw, "a packet socket"),
        (AddressFamily::Inet, SockType::Raw, "a raw IPv4 socket"),
        (AddressFamily::Inet6, SockType::Raw, "a raw IPv6 socket"),
    ];
    for (family, kind, name) in raw {
        let protocol = match family {
            AddressFamily::Packet => SockProtocol::EthAll,
            _ => SockProtocol::Icmp,
        };
        if socket(family, kind, SockFlag::SOCK_CLOEXEC, protocol).is_ok() {
            escaped.push(name.to_owned());
        }
    }
    // Everybody may open /dev/net/tun where udev is; to make an interface by it is another thing.
    let made =
        "ovl-probe".parse().is_ok_and(|name| Tap::open(&name, TapOptions::default()).is_ok());
    if made {
        escaped.push("an interface of its own making".to_owned());
    }
    for path in ["/etc/shadow", "/var/lib/overlay/node.pem", "/dev/mem"] {
        if File::open(path).is_ok() {
            escaped.push(format!("the file {path}"));
        }
    }
    if File::options().write(true).open("/proc/sys/net/ipv4/ip_forward").is_ok() {
        escaped.push("a switch of the network".to_owned());
    }
    if nix::unistd::setuid(nix::unistd::Uid::from_raw(0)).is_ok() {
        escaped.push("to be root again".to_owned());
    }
    let interfaces = nix::net::if_::if_nameindex().map(|all| all.iter().count()).unwrap_or(0);
    if interfaces > 1 {
        escaped.push(format!("{interfaces} interfaces"));
    }
    escaped
}

/// Tries all of it.
pub(super) fn try_all() -> anyhow::Result<Vec<Row>> {
    Ok(vec![reach_out()?, fatal_calls()?, send_anywhere()?])
}

/// Starts a probe and returns how it ended, and its words.
fn probe(
    question: &impl serde::Serialize,
) -> anyhow::Result<(std::process::ExitStatus, Vec<String>)> {
    let (ours, theirs) = ipc::pair()?;
    let (asker, asked) = ipc::pair()?;
    ipc::send(&asker, &ipc::encode(question)?, &[])?;
    let fds = [theirs.as_fd(), asked.as_fd()];
    let mut child = start_role("overlay-probe", ROLE, &fds, data_plane_user(u16::MAX)?)?;
    drop((theirs, asked));
    let status = child.wait()?;
    let mut words = Vec::new();
    while let Ok((bytes, _)) = ipc::receive(&ours) {
        if bytes.is_empty() {
            break;
        }
        words.push(String::from_utf8_lossy(&bytes).into_owned());
    }
    Ok((status, words))
}

fn reach_out() -> anyhow::Result<Row> {
    let mut addresses: Vec<IpAddr> = own_addresses().into_iter().map(|(ip, _)| ip).collect();
    for fixed in ["127.0.0.1", "::1", "169.254.169.254", "192.168.1.1", "1.1.1.1", "fd00:ec2::254"]
    {
        addresses.push(fixed.parse()?);
    }
    let sight = Sight::open()?;
    let (probed, seen) = sight.during(MARK, || probe(&addresses))?;
    let (status, words) = probed?;
    let is_held = words.is_empty() && seen == 0 && status.success();
    let what = match words.first() {
        Some(first) => format!("a data plane in other hands reaches {first}"),
        None => "a data plane in other hands reaches out: sockets, files, root".to_owned(),
    };
    Ok(Row {
        id: "E13",
        what,
        tried: addresses.len() * 8 + 10,
        seen: seen + words.len(),
        stopped_by: "empty namespace, own user, no capabilities".to_owned(),
        is_held,
    })
}

fn fatal_calls() -> anyhow::Result<Row> {
    let mut let_through = Vec::new();
    for (name, call) in FATAL {
        let (status, _) = probe(&call).context("a probe does not start")?;
        if status.signal() != Some(Signal::SIGSYS as i32) {
            let_through.push(name);
        }
    }
    let what = match let_through.first() {
        Some(first) => format!("a data plane in other hands may call {first}"),
        None => "a data plane in other hands calls socket, open, exec, ptrace, bpf …".to_owned(),
    };
    Ok(Row {
        id: "E12",
        what,
        tried: FATAL.len(),
        seen: let_through.len(),
        stopped_by: "system call filter: the process is killed".to_owned(),
        is_held: let_through.is_empty(),
    })
}

/// Sends from a marked socket where nobody may make this host send.
fn send_anywhere() -> anyhow::Result<Row> {
    let udp = overlay::udp::bind((std::net::Ipv6Addr::UNSPECIFIED, 0).into())
        .or_else(|_| overlay::udp::bind((std::net::Ipv4Addr::UNSPECIFIED, 0).into()))?;
    let port = udp.local_addr()?.port();
    let is_v6 = udp.local_addr()?.is_ipv6();
    guard::mark(&udp)?;
    let (ctl_uid, _) = service_user()?;
    let spec = GuardSpec { port, ctl_uid, lan: Vec::new(), resolvers: guard::resolvers() };
    let _guard = Guard::join(spec)?;
    let mut targets: Vec<IpAddr> = own_addresses().into_iter().map(|(ip, _)| ip).collect();
    for fixed in [
        "127.0.0.1",
        "::1",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "169.254.169.254",
        "224.0.0.1",
        "255.255.255.255",
        "fd00:ec2::254",
        "fe80::1",
        "ff02::1",
        "2001:db8::1",
    ] {
        targets.push(fixed.parse()?);
    }
    let sight = Sight::open()?;
    let ports = [22, 53, 80, 7770];
    let ((), seen) = sight.during(MARK, || {
        for ip in &targets {
            let ip = match ip {
                IpAddr::V4(v4) if is_v6 => IpAddr::V6(v4.to_ipv6_mapped()),
                other => *other,
            };
            for port in ports {
                // Whether it went is asked of the wires, not of the sender.
                let _ = udp.send_to(MARK, SocketAddr::new(ip, port));
            }
        }
    })?;
    Ok(Row {
        id: "C03",
        what: "the lease's socket sends to this host, its networks, metadata, groups".to_owned(),
        tried: targets.len() * ports.len(),
        seen,
        stopped_by: "egress guard".to_owned(),
        is_held: seen == 0,
    })
}
