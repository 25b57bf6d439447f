//! A lease of a guest's own: joined, plugged in, given a data plane, and served until its end.
//!
//! # Theory of operation
//! The gateway is shown the ticket; what it grants makes the guest's cable, unless that is there
//! from a lease that the guest shared until now, and then the data plane. A guest that begins ends
//! over a gateway that is not there; one that runs already waits for it as for any gateway that is
//! away.
//!
//! # Limits
//! Local commands that need a lease wait until there is one, a connection's worth each.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context, bail};
use overlay::clock;
use overlay::dataplane::DataPlane;
use overlay::exit::{Exit, Fault};
use overlay_proto::control::{CANDIDATES_MAX, LocalPort};
use overlay_proto::dial::{DialRules, Lan};
use overlay_proto::membership::{Membership, SellerHost};
use overlay_proto::messages::{JoinReply, RefuseReason, Welcome};
use serde_json::json;
use tokio::time::sleep;

use super::guest::Guest;
use super::hands::Host;
use super::link::{Link, LinkEvent};
use super::serve::{Lease as Running, Parts};
use super::{Evicted, IN_USE_AFTER_MAX, Start, beside, dial, nonce, refused, serve, status, tell};
use crate::api::Request;
use crate::args::Conduct;
use crate::helper::ask::{Ask, Wiring};

/// Between two looks for the gateway's address.
const LOOKUP_AGAIN_AFTER: Duration = Duration::from_secs(1);

impl Start<'_> {
    /// Makes the guest's cable, or has it follow, and keeps the lease's file from here on.
    pub(super) async fn plug(
        &mut self,
        wiring: Wiring,
        port: Option<u16>,
    ) -> anyhow::Result<OwnedFd> {
        let cable = match self.guest.cable.take() {
            Some((known, _)) if known.station != wiring.station => {
                bail!("the guest has other addresses than before");
            }
            Some((known, cable)) => {
                if known != wiring {
                    self.host.say(&Ask::Follow(wiring.clone()))?;
                }
                if let Some(port) = port {
                    self.lease.keep(&self.ticket, port)?;
                }
                cable
            }
            None => {
                let cable = self.host.ask_fd(&Ask::Plug(wiring.clone())).await?;
                let port = port.unwrap_or(self.lease.stored.port);
                self.lease.keep(&self.ticket, port)?;
                self.host.say(&Ask::Keep)?;
                cable
            }
        };
        let handed = cable.try_clone()?;
        self.guest.cable = Some((wiring, cable));
        Ok(handed)
    }

    /// Has a lease of its own from here on.
    pub(super) async fn own(mut self, port: u16) -> anyhow::Result<()> {
        let is_new = self.guest.cable.is_none();
        // One whose guest runs already has the time that its user gave it.
        let patience = if is_new { Duration::ZERO } else { self.place.keep };
        let began_at = clock::now();
        let addresses = &self.ticket.body().addresses;
        let gateway = loop {
            match dial::gateway_addresses(addresses, &self.rules).await {
                Err(error) if clock::now() - began_at < patience => {
                    tracing::info!(%error, "the gateway is looked up again");
                    sleep(LOOKUP_AGAIN_AFTER).await;
                }
                found => break found?,
            }
        };
        self.host.say(&Ask::Dial(gateway.clone()))?;
        let candidates = own_candidates(self.place, &self.rules, port);
        let seller = SellerHost {
            seller: self.key.id(),
            data_key: self.lease.stored.data_key.public(),
            only_buyer: self.place.only_buyer,
            rules: self.rules.clone(),
            gateway: gateway.clone(),
        };
        let mut membership = Membership::new(self.ticket.clone(), seller.clone());
        let mut link = Link::new(self.key.clone(), gateway, self.ticket.buyer());
        let mut held = Vec::new();
        let welcome = {
            let joining = first_join(&mut membership, &mut link, &self.host, patience);
            tokio::pin!(joining);
            loop {
                tokio::select! {
                    welcome = &mut joining => break Some(welcome),
                    () = self.signals.any() => break None,
                    call = beside::next_call(&mut self.local) => match call.request {
                        Request::Leave => {
                            let _ = call.answer.send(json!({}).into());
                            break None;
                        }
                        Request::Status => {
                            let status = status::away(&self.ticket, self.host.words());
                            let _ = call.answer.send(json!(status).into());
                        }
                        // They can be answered once there is a lease.
                        Request::Share(_) | Request::Pcap { .. } => held.push(call),
                    },
                }
            }
        };
        let Some(welcome) = welcome else {
            let _ = self.host.say(&Ask::EndMachine);
            self.host.machine_gone().await;
            return Ok(());
        };
        let welcome = match welcome {
            Err(error) if error.is::<Evicted>() => {
                self.host.say(&Ask::Forget)?;
                return Err(error);
            }
            welcome => welcome?,
        };
        let commands = membership.handle_welcome(&welcome, clock::now())?;
        let mut own =
            Guest::new(LocalPort::GUEST, membership, link, candidates.clone(), self.place.keep);
        let wiring = own.wiring().context("the gateway granted nothing")?;
        own.cable = Some(self.plug(wiring.clone(), Some(port)).await?);
        own.is_joined = self.guest.is_joined;

        let (socket, slot) = (self.host.ask_fd(&Ask::Start).await?, own.slot());
        let dataplane = DataPlane::over(socket, &self.lease.stored.data_key, slot)
            .context("the data plane does not start")?;
        tell(&dataplane, &commands)?;
        serve::plug(&dataplane, &mut own)?;
        let hello = own.membership.hello(candidates.clone());
        own.link.open(hello.context("the gateway granted nothing")?);
        let Self { host, place, key, lease, report, signals, mut local, started_at, .. } = self;
        let conduct = place.clone();
        let parts =
            Parts { own, dataplane, host, wiring, report, port, seller, key, conduct, candidates };
        let mut running = Running::new(parts, started_at);
        for call in held {
            running.answer(call).await?;
        }
        let ended = running.run(local.open()?, signals).await;
        drop(local);
        // The lease's lock goes last.
        drop(lease);
        ended
    }
}

/// Joins for the first time: here a failure ends the program, except that a gateway that is not
/// there is dialled for as long as `patience` says.
async fn first_join(
    membership: &mut Membership,
    link: &mut Link,
    host: &Host,
    patience: Duration,
) -> anyhow::Result<Welcome> {
    let started_at = clock::now();
    loop {
        let event = link.next().await;
        // Whatever it answers: its key is proved there.
        if let Some(addr) = link.remote().filter(|_| matches!(event, LinkEvent::Joined(_))) {
            host.say(&Ask::Joined(addr))?;
        }
        match event {
            LinkEvent::Due => link.join(membership.request(nonce()?, clock::now())),
            LinkEvent::Joined(JoinReply::Welcome(welcome)) => return Ok(welcome),
            // Perhaps this host itself, whose connection of before a crash is not yet over.
            LinkEvent::Joined(JoinReply::Refused(RefuseReason::InUse))
                if clock::now() - started_at < IN_USE_AFTER_MAX =>
            {
                link.close();
            }
            LinkEvent::Joined(JoinReply::Refused(reason)) => {
                let guest = &membership.ticket().body().guest;
                return Err(refused(guest, reason));
            }
            LinkEvent::Lost(error) if clock::now() - started_at < patience => {
                tracing::info!(%error, "the gateway is dialled again");
            }
            LinkEvent::Lost(error) => {
                return Err(Fault::new(Exit::Unreachable, error.to_string()).into());
            }
            LinkEvent::Open | LinkEvent::Message(_) => {} // not before the welcome
        }
    }
}

/// Returns where others of the local network may try this lease: nowhere without `--lan`.
fn own_candidates(place: &Conduct, rules: &DialRules, port: u16) -> Vec<SocketAddr> {
    if rules.lan == Lan::Refused || place.only_buyer {
        return Vec::new();
    }
    let given = place.listen.map(|at| at.ip()).filter(|ip| !ip.is_unspecified());
    let own = rules.links.iter().map(|(ip, _)| *ip);
    let ips = given.map_or_else(|| own.collect(), |ip| vec![ip]);
    ips.into_iter().take(CANDIDATES_MAX).map(|ip| SocketAddr::new(ip, port)).collect()
}
