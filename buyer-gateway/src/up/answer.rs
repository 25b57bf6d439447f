//! How the running order answers local commands.

use std::time::Duration;

use overlay_proto::control::{Command, Slot};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::serve::Gateway;
use crate::api::{OrderStatus, Request};
use crate::invite;

impl Gateway {
    /// Answers a local command; says whether it was the last.
    pub(super) fn handle_request(
        &mut self,
        request: Request,
        answer: oneshot::Sender<Value>,
    ) -> bool {
        let mut is_last = false;
        let value = match request {
            Request::Status => json!(self.status()),
            Request::Invite { slots, guest, expires_s } => {
                let expires_after = Duration::from_secs(expires_s);
                match invite::make(&mut self.book, slots, guest.as_ref(), expires_after) {
                    Ok(tickets) => json!(tickets),
                    Err(error) => json!({ "error": format!("{error:#}") }),
                }
            }
            Request::Ping { guest } => return self.ping(guest.as_str(), answer),
            Request::Down => {
                is_last = true;
                json!({})
            }
        };
        // Whoever asked may have gone.
        let _ = answer.send(value);
        is_last
    }

    fn ping(&mut self, guest: &str, answer: oneshot::Sender<Value>) -> bool {
        let known = self.book.registry.members().find(|m| m.record.name.as_str() == guest);
        let Some(member) = known else {
            let order = &self.book.registry.order_record().name;
            let text = format!("order {order} has no guest named {guest}: see overlay-gw status");
            let _ = answer.send(json!({ "error": text }));
            return false;
        };
        self.ping_id_last = self.ping_id_last.wrapping_add(1);
        let (slot, id) = (member.record.slot, self.ping_id_last);
        match self.dataplane.send(&Command::Ping { slot, id }) {
            Ok(()) => drop(self.pings.insert(id, answer)),
            Err(error) => drop(answer.send(json!({ "error": error.to_string() }))),
        }
        false
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
