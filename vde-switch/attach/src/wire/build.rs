//! Makes a wire, step by step, in the calling thread's namespace, which is new.

use std::fs::File;

use super::difference::{Difference, Expected, stranger};
use super::loaded::{Loaded, Scope};
use super::{Ends, GuestEnd, LeaseWire, WireError};
use crate::canary::{PacketEnd, TapEnd, catalogue, prove_ends};
use crate::netlink::generation::Rules;
use crate::netlink::route::{Change, Link, Links};
use crate::nft::Nft;
use crate::rules::{Cable, Place, stack};
use crate::sysctl;
use crate::tap::{IfName, Tap, TapOptions};
use crate::wire::spec::WireSpec;

/// The guest's end.
const GUEST_END: &str = "guest";
/// The data plane's.
const DATA_END: &str = "data";
/// The guest's side of a pair, until it goes to the guest.
const FAR_END: &str = "far";
/// The table that joins the ends.
const TABLE: &str = "ovl";

/// What a guest will hold, as long as nobody else does.
enum Far {
    Tap(Tap),
    Pair(u32),
}

pub(super) fn open(
    nft: Nft,
    spec: &WireSpec,
    guest: GuestEnd<'_>,
) -> Result<(LeaseWire, Ends), WireError> {
    let netns = File::open("/proc/thread-self/ns/net").map_err(WireError::Namespace)?;
    let mut links = Links::open().map_err(WireError::Netlink)?;
    let mut rules = Rules::open().map_err(WireError::Netlink)?;
    check_new(&mut links)?;
    let switches = sysctl::silence().map_err(WireError::Switch)?;
    nft.load(&stack::ruleset())?;
    nft.load_if_known(&stack::bridge_ruleset())?;

    let cable = Cable {
        table: TABLE.parse().expect("a constant that is a table's name"),
        guest: name(GUEST_END),
        data: name(DATA_END),
        place: Place::Lease,
    };
    let data = Tap::open(&cable.data, TapOptions::default())?;
    let far = match guest {
        GuestEnd::Tap => Far::Tap(Tap::open(&cable.guest, TapOptions::default())?),
        GuestEnd::Netns { .. } => {
            let far = name(FAR_END);
            links.make_pair(&cable.guest, &far).map_err(WireError::Pair)?;
            Far::Pair(find(&mut links, &far)?.index)
        }
    };
    let mut ends = Vec::new();
    let quiet = Change { up: Some(false), no_arp: Some(true), mtu: Some(spec.segment.mtu) };
    if let Far::Pair(index) = far {
        links.change(index, quiet).map_err(WireError::Netlink)?;
    }
    for end in [&cable.guest, &cable.data] {
        let index = find(&mut links, end)?.index;
        links.change(index, quiet).map_err(WireError::Netlink)?;
        ends.push(Expected { link: find(&mut links, end)? });
    }
    let ends = [ends.remove(0), ends.remove(0)];

    let loaded = Loaded::load(nft, spec, cable, Scope::Namespace)?;
    let generation = rules.generation().map_err(WireError::Netlink)?;
    let proof = Default::default();
    let mut wire = LeaseWire { netns, links, rules, loaded, ends, switches, generation, proof };
    prove(&mut wire, spec, &far, &data)?;
    let guest = match (far, guest) {
        (Far::Pair(index), GuestEnd::Netns { netns, name }) => {
            // There it is the guest's own, which asks for its neighbours.
            let asks = Change { no_arp: Some(false), ..Change::default() };
            wire.links.change(index, asks).map_err(WireError::Netlink)?;
            wire.links.move_to(index, netns.fd(), name).map_err(|source| WireError::Move {
                name: name.clone(),
                netns: netns.name().to_owned(),
                source,
            })?;
            None
        }
        (Far::Tap(tap), _) => Some(tap.into_fd()),
        (Far::Pair(_), GuestEnd::Tap) => None,
    };
    wire.check()?;
    Ok((wire, Ends { guest, data: data.into_fd() }))
}

/// A new namespace has what the kernel makes, and all of it is down.
fn check_new(links: &mut Links) -> Result<(), WireError> {
    let list = links.list().map_err(WireError::Netlink)?;
    match stranger(&list, &[]) {
        Some(link) => Err(Difference::Added(link.name.clone()).into()),
        None => Ok(()),
    }
}

/// Sends the canaries through, up for as long as that takes.
fn prove(wire: &mut LeaseWire, spec: &WireSpec, far: &Far, data: &Tap) -> Result<(), WireError> {
    let canaries = catalogue(spec);
    let mut data = TapEnd::new(data).map_err(WireError::Namespace)?;
    wire.proof = match *far {
        Far::Tap(ref tap) => {
            wire.look_at_links()?;
            wire.set_up()?;
            let mut guest = TapEnd::new(tap).map_err(WireError::Namespace)?;
            prove_ends(&canaries, &mut guest, &mut data)?
        }
        Far::Pair(index) => {
            wire.look_at_links_beside(Some(index))?;
            let up = Change { up: Some(true), ..Change::default() };
            wire.links.change(index, up).map_err(WireError::Netlink)?;
            wire.set_up()?;
            let mut guest = PacketEnd::open(index).map_err(WireError::Namespace)?;
            prove_ends(&canaries, &mut guest, &mut data)?
        }
    };
    wire.down()?;
    wire.loaded.start_counting()
}

fn find(links: &mut Links, name: &IfName) -> Result<Link, WireError> {
    let link = links.find(name).map_err(WireError::Netlink)?;
    link.ok_or_else(|| Difference::Gone(name.to_string()).into())
}

fn name(text: &str) -> IfName {
    text.parse().expect("a constant that is an interface's name")
}
