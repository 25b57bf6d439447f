//! The buyer's own end of the segment: packet filter, tap, addresses.

use std::os::fd::OwnedFd;

use overlay::host::filter::{Exposed, Installed, TapFilter};
use overlay_proto::names::Name;
use vde_attach::link::{Link, Place};
use vde_attach::tap::{IfName, Tap, TapOptions};
use vde_switch::station::{Segment, Station};

/// The buyer's tap behind its filter. The tap is gone when the data plane closes its descriptor;
/// drop this after it.
#[derive(Debug)]
pub(crate) struct BuyersEnd {
    _filter: Installed,
}

/// Makes the tap, down; then its filter; then brings it up, so that it never stands open.
pub(crate) fn make(
    order: &Name,
    tap: &IfName,
    own: Station,
    segment: &Segment,
    exposed: &[Exposed],
) -> anyhow::Result<(BuyersEnd, OwnedFd)> {
    let made = Tap::open(tap, TapOptions::default())?;
    let ipv4 = (own.ipv4, segment.ipv4.1);
    let ipv6 = (own.ipv6, segment.ipv6.1);
    let (order, exposed) = (order.to_string(), exposed.to_vec());
    let filter = TapFilter { order, tap: tap.clone(), ipv4, ipv6, exposed }.install()?;
    let name = tap.clone();
    let link = Link { name, mac: own.mac, ipv4, ipv6, mtu: segment.mtu, place: Place::Host };
    link.configure()?;
    Ok((BuyersEnd { _filter: filter }, made.into_fd()))
}
