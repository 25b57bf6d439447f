//! How the running order answers local commands.

use std::time::Duration;

use overlay::store::StoreError;
use overlay_proto::control::{Command, Slot};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use vde_attach::link;

use super::serve::Gateway;
use crate::api::{OrderStatus, Request};
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
        answer: oneshot::Sender<Value>,
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
        let _ = answer.send(value);
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
            link::set_mtu(&self.tap, new)?;
        }
        Ok(())
    }

    fn ping(&mut self, guest: &str, answer: oneshot::Sender<Value>) {
        let known = self.book.registry.members().find(|m| m.record.name.as_str() == guest);
        let Some(member) = known else {
            let order = &self.book.registry.order_record().name;
            let text = format!("order {order} has no guest named {guest}: see overlay-gw status");
            let _ = answer.send(json!({ "error": text }));
            return;
        };
        self.ping_id_last = self.ping_id_last.wrapping_add(1);
        let (slot, id) = (member.record.slot, self.ping_id_last);
        match self.dataplane.send(&Command::Ping { slot, id }) {
            Ok(()) => drop(self.pings.insert(id, answer)),
            Err(error) => drop(answer.send(json!({ "error": error.to_string() }))),
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
            guests: self.guests.status(&self.book.registry),
            drops: self.guests.drops(),
        }
    }
}
