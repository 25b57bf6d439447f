//! The three requests of `/dev/net/tun` that make a tap (linux/if_tun.h), and a packet socket at
//! one interface (linux/if_packet.h).
#![expect(unsafe_code, reason = "ioctl, bind and setsockopt are foreign functions")]

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// Ethernet frames; without it, IP packets.
const IFF_TAP: u16 = 0x0002;
/// No four bytes of packet information in front.
const IFF_NO_PI: u16 = 0x1000;
/// A virtio-net header in front of each frame.
const IFF_VNET_HDR: u16 = 0x4000;
/// The interface must not exist yet.
const IFF_TUN_EXCL: u16 = 0x8000;

/// The peer finishes checksums.
pub(crate) const TUN_F_CSUM: libc::c_uint = 0x01;
/// The peer takes TCP super-frames over IPv4.
pub(crate) const TUN_F_TSO4: libc::c_uint = 0x02;
/// The peer takes TCP super-frames over IPv6.
pub(crate) const TUN_F_TSO6: libc::c_uint = 0x04;
/// The peer takes super-frames with congestion marks.
pub(crate) const TUN_F_TSO_ECN: libc::c_uint = 0x08;

const TUNSETIFF: libc::Ioctl = 0x4004_54ca;
const TUNSETOFFLOAD: libc::Ioctl = 0x4004_54d0;
const TUNSETVNETHDRSZ: libc::Ioctl = 0x4004_54d8;

/// Makes the descriptor of `/dev/net/tun` a new tap with that name (zero-terminated).
pub(crate) fn make_tap(tun: BorrowedFd<'_>, name: &[u8; libc::IFNAMSIZ]) -> io::Result<()> {
    let flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_TUN_EXCL;
    let mut request = libc::ifreq {
        ifr_name: name.map(|byte| libc::c_char::from_ne_bytes([byte])),
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_flags: libc::c_short::from_ne_bytes(flags.to_ne_bytes()),
        },
    };
    // SAFETY: TUNSETIFF reads and writes one ifreq, which `request` is, for the time of the call.
    result(unsafe { libc::ioctl(tun.as_raw_fd(), TUNSETIFF, ptr::from_mut(&mut request)) })
}

/// Sets the length, in bytes, of the virtio-net header.
pub(crate) fn set_vnet_hdr_len(tap: BorrowedFd<'_>, len: libc::c_int) -> io::Result<()> {
    const { assert!(mem::size_of::<libc::c_int>() == 4) };
    // SAFETY: TUNSETVNETHDRSZ reads one int, which `len` is, for the time of the call.
    result(unsafe { libc::ioctl(tap.as_raw_fd(), TUNSETVNETHDRSZ, ptr::from_ref(&len)) })
}

/// Says which offloads the reader and writer of the tap can do.
pub(crate) fn set_offload(tap: BorrowedFd<'_>, flags: libc::c_uint) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes its argument by value; no memory is touched.
    result(unsafe { libc::ioctl(tap.as_raw_fd(), TUNSETOFFLOAD, libc::c_ulong::from(flags)) })
}

/// A virtio-net header of 10 bytes goes with each frame of a packet socket.
const PACKET_VNET_HDR: libc::c_int = 15;
/// What the socket's own interface sends is not heard (Linux 4.20).
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;

/// Opens a socket that sends and hears whole frames at one interface, which is known by its index.
pub(crate) fn packet_socket(index: u32) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    // Of no protocol, so that it hears nothing before it is bound.
    let packet = socket(AddressFamily::Packet, SockType::Raw, flags, None)?;
    set_packet_option(packet.as_fd(), PACKET_VNET_HDR)?;
    set_packet_option(packet.as_fd(), PACKET_IGNORE_OUTGOING)?;
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as libc::c_ushort,
        sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
        sll_ifindex: libc::c_int::try_from(index).map_err(io::Error::other)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let len = mem::size_of_val(&address) as libc::socklen_t;
    // SAFETY: `bind` reads `len` bytes of `address`, which are its size, for the time of the call.
    result(unsafe { libc::bind(packet.as_raw_fd(), ptr::from_ref(&address).cast(), len) })?;
    Ok(packet)
}

fn set_packet_option(packet: BorrowedFd<'_>, option: libc::c_int) -> io::Result<()> {
    let on: libc::c_int = 1;
    let len = mem::size_of_val(&on) as libc::socklen_t;
    let value = ptr::from_ref(&on).cast();
    // SAFETY: `setsockopt` reads `len` bytes of `on`, which are its size, for the time of the call.
    result(unsafe { libc::setsockopt(packet.as_raw_fd(), libc::SOL_PACKET, option, value, len) })
}

fn result(code: libc::c_int) -> io::Result<()> {
    if code < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Takes ownership of a descriptor that a control message has just brought.
pub(crate) fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: the kernel made this descriptor for us in recvmsg, and nobody else knows its number.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
