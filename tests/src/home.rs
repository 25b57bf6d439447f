//! A seller's home, and what a hostile guest tries in it.
//!
//! # Theory of operation
//! [`Home`] is a lab with a seller's host that is as careless as hosts with docker and libvirt are:
//! it forwards both families, masquerades, answers for others (proxy ARP), routes loopback
//! addresses, has a bridge with its network card in it and one with another machine. Around it are
//! a neighbour, a router with a page, a metadata server, the internet; elsewhere a buyer behind a
//! router of his own.
//!
//! A [`seats::Seat`] is a guest at the end of some cable. [`Home::attack`] lets `overlay-attack`
//! ([`attack`]) run there with all that a guest could know ([`plan`]) and tells who saw it
//! ([`watch`]): every host's every interface is captured, services say what they heard.
//!
//! ```text
//!  guest ── ? ── seller ── br0 ──┐        ┌── internet
//!               virbr0           ├ router ┤ isp
//!               tenant  neighbour┤        └── buyers-router ── buyer
//!                       metadata ┘
//! ```
//!
//! # Limits
//! One seller. The internet is one host.

pub mod attack;
pub mod dice;
pub mod escapes;
pub mod frames;
pub mod intruders;
pub mod layers;
pub mod load;
pub mod marker;
pub mod packet;
pub mod patch;
pub mod plan;
pub mod seats;
pub mod services;
pub mod sockets;
pub mod watch;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use self::attack::Tally;
use self::frames::Station;
use self::marker::{By, Row};
use self::packet::Mac;
use self::plan::{Plan, Target};
use self::seats::Seat;
use self::services::Services;
use self::watch::{Places, Sightings, Suspect, Watch};
use crate::cast::{Gateway, Programs};
use crate::lab::process::Process;
use crate::lab::{Cable, End, Host, Lab, Wire, masquerade};

/// The home's network.
const LAN4: &str = "192.168.1";
const LAN6: &str = "2000:77:7c21:1:";
/// The network of the seller's other machine.
const VIRT4: &str = "192.168.122";
const VIRT6: &str = "fd00:122:";
/// What clouds and others have at well-known addresses.
const METADATA: [&str; 3] = ["169.254.169.254", "100.100.100.200", "fd00:ec2::254"];

/// Ports on which everybody at home listens: ssh, DNS, DHCP, a page, files, a printer.
pub const PORTS: [u16; 7] = [22, 53, 67, 80, 445, 547, 9100];
/// A port that the seller's host opens on its loopback alone.
pub const LOCAL_PORT: u16 = 7078;
/// A port of the buyer's that he does not expose, and one that he does.
pub const CLOSED_PORT: u16 = 7022;
/// See there.
pub const OPEN_PORT: u16 = 5001;
/// The subnet of his order.
pub const SUBNET: &str = "10.77.0.0/24";
/// An attack is under way so long after it was begun, also in an emulated machine.
const UNDER_WAY: Duration = Duration::from_secs(2);
/// It goes on for so long after what was done meanwhile.
const AFTERWARDS: Duration = Duration::from_secs(4);
/// Frames are on their way so long after the last was sent.
const SETTLE: Duration = Duration::from_millis(300);

/// See the module's theory of operation.
#[derive(Debug)]
pub struct Home {
    /// The seller's host.
    pub seller: Host,
    /// A computer on his LAN.
    pub neighbour: Host,
    /// His router.
    pub router: Host,
    /// Who has the well-known addresses, on his LAN.
    pub metadata: Host,
    /// Another machine of the seller's.
    pub tenant: Host,
    /// Somebody on the internet.
    pub internet: Host,
    /// Between all.
    pub isp: Host,
    /// The buyer's host.
    pub buyer: Host,
    /// The buyer's router.
    pub buyers_router: Host,
    /// The programs that play.
    pub programs: Programs,
    /// Where the internet host is.
    pub internet_cable: Cable,
    /// Where the buyer is.
    pub buyer_cable: Cable,
    services: Vec<Services>,
    /// Last, so that namespaces go after what is in them.
    pub lab: Lab,
}

impl Home {
    /// Builds it.
    ///
    /// # Errors
    /// When the programs are not built, or the lab cannot be made.
    pub fn build() -> Result<Self> {
        let programs = Programs::find()?;
        let mut lab = Lab::new()?;
        let isp = lab.router("isp")?;
        let router = lab.router("router")?;
        let uplink = lab.connect(&router, &isp, Wire::P)?;
        let internet = lab.host("internet")?;
        let internet_cable = lab.connect(&internet, &isp, Wire::P)?;
        let buyers_router = lab.router("buyers-router")?;
        let buyers_uplink = lab.connect(&buyers_router, &isp, Wire::P)?;
        let buyer = lab.router("buyer")?;
        let buyer_cable = lab.connect(&buyer, &buyers_router, Wire::P)?;
        let Cable { host: End { ipv4, ipv6, .. }, .. } = &buyer_cable;
        let ([a, b, c, _], [p, q, r, s, ..]) = (ipv4.octets(), ipv6.segments());
        isp.must(&format!("ip route add {a}.{b}.{c}.0/24 via {}", buyers_uplink.host.ipv4))?;
        isp.must(&format!(
            "ip -6 route add {p:x}:{q:x}:{r:x}:{s:x}::/64 via {}",
            buyers_uplink.host.ipv6
        ))?;
        isp.must(&format!("ip -6 route add {LAN6}:/64 via {}", uplink.host.ipv6))?;
        router.must("ip link add lan type bridge")?;
        router.must(&format!("ip addr add {LAN4}.1/24 dev lan"))?;
        router.must(&format!("ip addr add {LAN6}:1/64 dev lan nodad"))?;
        router.must("ip link set lan up")?;
        masquerade(&router, &uplink.host)?;
        masquerade(&buyer, &buyer_cable.host)?;

        let [neighbour, metadata, tenant] =
            ["neighbour", "metadata", "tenant"].map(|name| lab.host(name));
        let (neighbour, metadata, tenant) = (neighbour?, metadata?, tenant?);
        let seller = lab.router("seller")?;
        for (host, number) in [(&neighbour, 20), (&metadata, 254), (&seller, 10)] {
            plug(host, &router, "lan", number)?;
        }
        for number in [20, 254] {
            let host = if number == 20 { &neighbour } else { &metadata };
            address(host, "lan0", number)?;
        }
        for ip in METADATA {
            metadata.must(&format!("ip addr add {ip} dev lan0"))?;
        }
        careless(&seller, &tenant)?;
        let services = vec![
            Services::open(&seller, &[Ipv6Addr::UNSPECIFIED.into()], &PORTS)?,
            Services::open(&seller, &[Ipv4Addr::LOCALHOST.into()], &[LOCAL_PORT])?,
            Services::open(&seller, &[Ipv6Addr::LOCALHOST.into()], &[LOCAL_PORT])?,
            Services::open(&router, &[Ipv6Addr::UNSPECIFIED.into()], &PORTS)?,
            Services::open(&neighbour, &[Ipv6Addr::UNSPECIFIED.into()], &PORTS)?,
            Services::open(&metadata, &[Ipv6Addr::UNSPECIFIED.into()], &[80])?,
            Services::open(&tenant, &[Ipv6Addr::UNSPECIFIED.into()], &[22, 80])?,
            Services::open(&internet, &[Ipv6Addr::UNSPECIFIED.into()], &[53, 80])?,
            Services::open(&buyer, &[Ipv6Addr::UNSPECIFIED.into()], &[CLOSED_PORT, OPEN_PORT])?,
        ];
        Ok(Self {
            seller,
            neighbour,
            router,
            metadata,
            tenant,
            internet,
            isp,
            buyer,
            buyers_router,
            programs,
            internet_cable,
            buyer_cable,
            services,
            lab,
        })
    }

    /// Opens an order at the buyer's.
    ///
    /// # Errors
    /// As [`Gateway::up`].
    pub fn open(&self, order: &str) -> Result<Gateway> {
        self.with_words(|words| Gateway::up(&self.programs, &self.buyer, order, words))
    }

    /// Starts the same by other programs, without waiting for anything.
    ///
    /// # Errors
    /// As [`Gateway::start`].
    pub fn start(&self, programs: &Programs, order: &str) -> Result<Process> {
        self.with_words(|words| Gateway::start(programs, &self.buyer, order, words))
    }

    fn with_words<T>(&self, run: impl FnOnce(&[&str]) -> T) -> T {
        let at = format!("{}:7770", self.buyer_cable.host.ipv4);
        let port = OPEN_PORT.to_string();
        run(&["--subnet", SUBNET, "--expose", &port, "--advertise", &at])
    }

    /// Returns every host but the guests.
    #[must_use]
    pub fn hosts(&self) -> Vec<Host> {
        let all = [
            &self.seller,
            &self.neighbour,
            &self.router,
            &self.metadata,
            &self.tenant,
            &self.internet,
            &self.isp,
            &self.buyer,
            &self.buyers_router,
        ];
        all.into_iter().cloned().collect()
    }

    /// Returns what a guest that has found out everything knows: who is where, at which MAC.
    ///
    /// # Errors
    /// When an interface has no address.
    pub fn plan(&self, own: Station, members: &[Station], more: &[Mac]) -> Result<Plan> {
        let mut macs = more.to_vec();
        for (host, interface) in [
            (&self.seller, "br0"),
            (&self.seller, "lan0"),
            (&self.seller, "virbr0"),
            (&self.router, "lan"),
            (&self.neighbour, "lan0"),
            (&self.metadata, "lan0"),
        ] {
            macs.push(mac_of(host, interface)?);
        }
        // A bridge often has the address of one of its ports.
        let mut known = BTreeSet::new();
        macs.retain(|mac| known.insert(*mac));
        let mut targets = Vec::new();
        let mut add = |row: &[u8; 3], ips: &[IpAddr], ports: &[u16]| {
            let target = |ip: &IpAddr| Target { row: Row(*row), ip: *ip, ports: ports.to_vec() };
            targets.extend(ips.iter().map(target));
        };
        let lan = |number: u8| [lan4(number).into(), lan6(number).into()];
        let virt: [IpAddr; 4] = [
            parse(&format!("{VIRT4}.1"))?,
            parse(&format!("{VIRT6}:1"))?,
            parse(&format!("{VIRT4}.20"))?,
            parse(&format!("{VIRT6}:20"))?,
        ];
        add(b"E01", &[&lan(10)[..], &virt[..2]].concat(), &PORTS);
        let groups = ["ff02::1", "ff02::2", "224.0.0.1"].map(parse);
        for group in groups {
            add(b"E02", &[group?], &PORTS[..4]);
        }
        add(b"E03", &[&lan(20)[..], &lan(1), &virt[2..]].concat(), &PORTS);
        for ip in METADATA {
            add(b"E04", &[parse(ip)?], &[80]);
        }
        let far = &self.internet_cable.host;
        add(b"E05", &[far.ipv4.into(), far.ipv6.into()], &[53, 80]);
        add(b"E06", &lan(10), &PORTS);
        let loopback = [Ipv4Addr::LOCALHOST.into(), [127, 1, 2, 3].into(), parse("::1")?];
        add(b"E07", &loopback, &[LOCAL_PORT, 80]);
        let broadcasts = [[255; 4].into(), parse(&format!("{LAN4}.255"))?];
        add(b"E08", &broadcasts, &[9, 67, 547]);
        add(b"E09", &lan(1)[..1], &[80]);
        // The buyer's own network, by way of his end of the segment.
        let buyers = [&self.buyer_cable.host, &self.buyer_cable.router];
        for end in buyers {
            add(b"E11", &[end.ipv4.into(), end.ipv6.into()], &[CLOSED_PORT]);
        }
        if let Some(buyer) = members.first() {
            add(b"E11", &[buyer.ipv4.into(), buyer.ipv6.into()], &[CLOSED_PORT]);
            add(b"L11", &[buyer.ipv4.into(), buyer.ipv6.into()], &[OPEN_PORT]);
        }
        let mut plan = Plan {
            interface: "eth0".to_owned(),
            own,
            members: members.to_vec(),
            macs,
            targets,
            seed: 7,
            mutations: 2,
        };
        plan.add_link_locals(&PORTS[..4]);
        Ok(plan)
    }

    /// Lets a guest attack, and tells what it did and who saw it.
    ///
    /// # Errors
    /// When the attack does not come to its end, or the watch missed a frame.
    pub fn attack(&self, seat: &mut Seat, plan: &Plan) -> Result<(Tally, Sightings)> {
        self.attack_after(seat, plan, || Ok(()))
    }

    /// Does something that may cut the guest off, then lets it attack.
    ///
    /// # Errors
    /// As [`Self::attack`], and as `first` says.
    pub fn attack_after(
        &self,
        seat: &mut Seat,
        plan: &Plan,
        first: impl FnOnce() -> Result<()>,
    ) -> Result<(Tally, Sightings)> {
        for services in &self.services {
            services.take();
        }
        let watch = self.watch(seat)?;
        let tally = seat.run_after(plan, first)?;
        thread::sleep(SETTLE);
        let mut seen = watch.finish()?;
        for heard in self.services.iter().map(Services::take) {
            for ((row, place), count) in heard {
                match row.is_legal() {
                    true => *seen.inside.entry((row, By::Socket, place)).or_default() += count,
                    false => *seen.outside.entry((row, place)).or_default() += count,
                }
            }
        }
        Ok((tally, seen))
    }

    /// Lets a guest attack on and on, does something meanwhile, and tells who saw the guest until a
    /// while after that. What the guest says is lost: it may not survive it.
    ///
    /// # Errors
    /// When there is no way to start it, as `meanwhile` says, or when the watch missed a frame.
    pub fn attack_meanwhile(
        &self,
        seat: &Seat,
        plan: &Plan,
        meanwhile: impl FnOnce() -> Result<()>,
    ) -> Result<Sightings> {
        let watch = self.watch(seat)?;
        let load = seat.begin(plan)?;
        thread::sleep(UNDER_WAY);
        meanwhile()?;
        thread::sleep(AFTERWARDS);
        drop(load);
        thread::sleep(SETTLE);
        watch.finish()
    }

    /// Starts to watch all hosts and other guests while something goes on at a seat.
    ///
    /// # Errors
    /// As [`Watch::keep`].
    pub fn watch(&self, seat: &Seat) -> Result<Watch> {
        let hosts = [self.hosts(), seat.members.clone()].concat();
        let places = Places { cable: seat.cable.clone(), inside: seat.inside.clone() };
        Watch::keep(&hosts, &Suspect::of(&seat.station), &places)
    }
}

/// Makes the seller's host what it is: see the module's theory of operation.
fn careless(seller: &Host, tenant: &Host) -> Result<()> {
    for line in [
        "ip link add br0 type bridge",
        "ip link set br0 up",
        "ip link set lan0 master br0",
        "ip link add virbr0 type bridge",
        "ip link set virbr0 up",
    ] {
        seller.must(line)?;
    }
    address(seller, "br0", 10)?;
    plug_into(tenant, seller, "eth0", "vnet9", "virbr0")?;
    for (host, interface, number) in [(seller, "virbr0", 1), (tenant, "eth0", 20)] {
        host.must(&format!("ip addr add {VIRT4}.{number}/24 dev {interface}"))?;
        host.must(&format!("ip addr add {VIRT6}:{number}/64 dev {interface} nodad"))?;
    }
    tenant.must(&format!("ip route add default via {VIRT4}.1"))?;
    tenant.must(&format!("ip -6 route add default via {VIRT6}:1"))?;
    for ip in METADATA {
        seller.must(&format!("ip route add {ip} dev br0"))?;
    }
    seller.must(
        "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 \
         net.ipv4.conf.all.route_localnet=1 net.ipv4.conf.default.route_localnet=1 \
         net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0 \
         net.ipv4.conf.all.accept_local=1 net.ipv4.conf.default.proxy_arp=1 \
         net.ipv4.icmp_echo_ignore_broadcasts=0",
    )?;
    for family in ["ip", "ip6"] {
        seller.nft(&format!(
            "table {family} home_nat {{ chain post {{ type nat hook postrouting priority 100; \
             oifname \"br0\" masquerade; }}\n}}"
        ))?;
    }
    Ok(())
}

/// Puts a host's `lan0` into a bridge of the router's.
fn plug(host: &Host, router: &Host, bridge: &str, number: u8) -> Result<()> {
    plug_into(host, router, "lan0", &format!("port{number}"), bridge)
}

/// Joins a host by a cable to a bridge of another.
pub(crate) fn plug_into(
    host: &Host,
    other: &Host,
    near: &str,
    far: &str,
    bridge: &str,
) -> Result<()> {
    let (a, b) = (host.netns(), other.netns());
    host.must(&format!("ip link add {near} netns {a} type veth peer name {far} netns {b}"))?;
    other.must(&format!("ip link set {far} master {bridge} up"))?;
    host.must(&format!("ip link set {near} up")).map(drop)
}

/// Gives a host its addresses on the LAN and its way out.
fn address(host: &Host, interface: &str, number: u8) -> Result<()> {
    host.must(&format!("ip addr add {}/24 dev {interface}", lan4(number)))?;
    host.must(&format!("ip addr add {}/64 dev {interface} nodad", lan6(number)))?;
    host.must(&format!("ip route add default via {LAN4}.1"))?;
    host.must(&format!("ip -6 route add default via {LAN6}:1")).map(drop)
}

fn lan4(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 1, number)
}

/// The number is in decimal digits, as people write it.
fn lan6(number: u8) -> Ipv6Addr {
    format!("{LAN6}:{number}").parse().expect("a prefix and a number are an address")
}

/// Returns the MAC address of an interface.
///
/// # Errors
/// When it is not there.
pub fn mac_of(host: &Host, interface: &str) -> Result<Mac> {
    let said = host.must(&format!("cat /sys/class/net/{interface}/address"))?;
    plan::mac(&said).with_context(|| format!("{interface} of {}", host.name()))
}

fn parse(text: &str) -> Result<IpAddr> {
    text.parse().with_context(|| format!("{text} is no address"))
}
