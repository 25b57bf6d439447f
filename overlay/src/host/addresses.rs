//! The host's own addresses and networks: how others might reach it, and whom it reaches directly.

use std::fs;
use std::net::IpAddr;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::SockaddrStorage;

/// Most addresses that are looked at.
const ADDRESSES_MAX: usize = 256;

/// Lists addresses and prefix lengths of interfaces that are up, IPv4 first.
///
/// Left out: loopback, link-local ones, and taps and tunnels, our own among them: what is reached
/// through an overlay must not be the way to an overlay.
#[must_use]
pub fn own_addresses() -> Vec<(IpAddr, u8)> {
    let Ok(interfaces) = getifaddrs() else { return Vec::new() };
    let mut found = Vec::new();
    for interface in interfaces.take(ADDRESSES_MAX) {
        let usable = interface.flags.contains(InterfaceFlags::IFF_UP)
            && !interface.flags.contains(InterfaceFlags::IFF_LOOPBACK)
            && !is_tun(&interface.interface_name);
        let ip = interface.address.as_ref().and_then(ip);
        let Some(ip) = ip.filter(|ip| usable && !is_link_local(*ip)) else { continue };
        let prefix = interface.netmask.as_ref().and_then(self::ip).map_or(0, prefix_len);
        if !found.contains(&(ip, prefix)) {
            found.push((ip, prefix));
        }
    }
    found.sort_by_key(|(ip, _)| ip.is_ipv6());
    found
}

fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

fn prefix_len(mask: IpAddr) -> u8 {
    let ones = match mask {
        IpAddr::V4(mask) => mask.to_bits().leading_ones(),
        IpAddr::V6(mask) => mask.to_bits().leading_ones(),
    };
    u8::try_from(ones).unwrap_or(0)
}

fn is_tun(interface: &str) -> bool {
    fs::exists(format!("/sys/class/net/{interface}/tun_flags")).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_is_as_long_as_its_ones() {
        for (mask, len) in [("255.255.255.0", 24), ("0.0.0.0", 0), ("ffff:ffff::", 32)] {
            assert_eq!(prefix_len(mask.parse().expect("a mask")), len);
        }
    }

    #[test]
    fn loopback_is_nobodys_way_here() {
        assert!(own_addresses().iter().all(|(ip, _)| !ip.is_loopback()));
    }
}
