//! How the running order answers local commands.

use std::time::Duration;

use overlay::capture::{self, Captured};
use overlay::clock;
use overlay::drops;
use overlay::exit::{Exit, Fault};
use overlay::local::Answer;
use overlay::store::StoreError;
use overlay_proto::control::{Command, Detail, LocalPort, Slot};
use overlay_proto::registry::MemberInfo;
use serde_json::json;
use tokio::sync::oneshot;

use super::serve::Gateway;
use crate::api::{OrderStatus, Request};
use crate::helper::{Ask, Tell};
use crate::invite::{self, For};
use crate::manage::{self, Change};

impl Gateway {
    /// Answers a local command; says whether it was the last.
    ///
    /// # Errors
    /// When the store failed: the registry is ahead of it then, and nothing more may be handed out.
    pub(super) fn handle_request(
        &mut self,
        request: Request,
        answer: oneshot::Sender<Answer>,
    ) -> anyhow::Result<bool> {
        let mut is_last = false;
        let answered = match request {
            Request::Status => Ok(json!(self.status())),
            Request::Invite { slots, guest, replace, expires_s } => {
                let whose = For::new(slots, guest, replace);
                let made = invite::make(&mut self.book, whose, Duration::from_secs(expires_s));
                made.map(|tickets| json!(tickets))
            }
            Request::Change(change) => self.change(&change).map(|()| json!({})),
            Request::Ping { guest } => {
                self.ping(guest.as_str(), answer);
                return Ok(false);
            }
            Request::Pcap { guest, detail } => {
                // Whoever asked may have gone; then nobody holds the other end.
                let _ = answer.send(
                    self.capture(guest.as_str(), detail)
                        .unwrap_or_else(|error| json!({ "error": format!("{error:#}") }).into()),
                );
                return Ok(false);
            }
            Request::Down => {
                is_last = true;
                Ok(json!({}))
            }
        };
        let (value, failed) = match answered {
            Ok(value) => (value, None),
            Err(error) => {
                let text = format!("{error:#}");
                (json!({ "error": text }), error.is::<StoreError>().then_some(error))
            }
        };
        // Whoever asked may have gone.
        let _ = answer.send(value.into());
        failed.map_or(Ok(is_last), Err)
    }

    /// Makes a change of the buyer's and tells everyone whom it concerns.
    fn change(&mut self, change: &Change) -> anyhow::Result<()> {
        let mtu = self.book.registry.order_record().mtu;
        manage::make(&mut self.book, change)?;
        match change {
            Change::Evict { guest } => {
                if let Some(slot) = self.book.registry.slot_of(guest.as_str()) {
                    self.dismiss(slot, None);
                }
                self.report.evicted(guest.as_str())?;
            }
            Change::Revoke { .. } | Change::Set { .. } => {}
        }
        self.spread()?;
        let new = self.book.registry.order_record().mtu;
        if new != mtu {
            self.hands.ask(&Ask::SetMtu(new), &[])?;
            self.hands.wait::<Tell>()?.0.into_result()?;
        }
        Ok(())
    }

    fn guest(&self, guest: &str) -> Result<MemberInfo, Fault> {
        let known = self.book.registry.members().find(|m| m.record.name.as_str() == guest);
        known.ok_or_else(|| {
            let order = &self.book.registry.order_record().name;
            let text = format!("order {order} has no guest named {guest}: see overlay-gw status");
            Fault::new(Exit::Failed, text)
        })
    }

    fn capture(&self, guest: &str, detail: Detail) -> anyhow::Result<Answer> {
        let station = self.guest(guest)?.station.mac;
        let (records, readers) = capture::pair()?;
        self.dataplane.capture(LocalPort::GUEST, detail, Some(station), records)?;
        let name = format!("{}/{guest}", self.book.registry.order_record().name);
        let words = format!("{}, frames from and to {station}", self.tap);
        Ok(Answer { value: json!(Captured { name, words }), fd: Some(readers) })
    }

    fn ping(&mut self, guest: &str, answer: oneshot::Sender<Answer>) {
        let member = match self.guest(guest) {
            Ok(member) => member,
            Err(fault) => {
                let _ = answer.send(json!({ "error": fault.to_string() }).into());
                return;
            }
        };
        self.ping_id_last = self.ping_id_last.wrapping_add(1);
        let (guest, id) = (member.record.slot, self.ping_id_last);
        // A lease's tunnel is that of its first guest.
        let slot = self.book.registry.lease_of(guest).first().copied().unwrap_or(guest);
        match self.dataplane.send(&Command::Ping { slot, id }) {
            Ok(()) => drop(self.pings.insert(id, (guest, answer))),
            Err(error) => drop(answer.send(json!({ "error": error.to_string() }).into())),
        }
    }

    fn status(&self) -> OrderStatus {
        let order = self.book.registry.order_record();
        let segment = order.segment();
        OrderStatus {
            order: order.name.to_string(),
            id: order.id().to_string(),
            subnet: order.subnet.to_string(),
            ipv6: format!("{}/{}", segment.ipv6.0, segment.ipv6.1),
            you: order.station(Slot::GATEWAY).map_or(String::new(), |own| own.ipv4.to_string()),
            port: order.port,
            state: "running".to_owned(),
            guests: self.guests.status(&self.book.registry, clock::now()),
            reasons: drops::all_words(&self.guests.drops()),
            drops: self.guests.drops(),
        }
    }
}
