//! What `overlay-gw up` prints: the order's line, tickets, then one line for each event.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use overlay::duration;
#[cfg(not(test))]
use overlay::output::line;
use overlay_proto::control::PathKind;
use overlay_proto::registry::{MemberInfo, OrderRecord};
use serde_json::{Value, json};
use vde_switch::station::Station;

#[cfg(test)]
use self::tests::line;

/// Prints lines for people, or objects for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    /// As documented, fields two spaces apart.
    Text,
    /// One JSON object a line.
    Json,
}

impl Report {
    fn print(self, text: &str, object: &Value) -> io::Result<()> {
        match self {
            Self::Text => line(text),
            Self::Json => line(&object.to_string()),
        }
    }

    /// The order is ready.
    pub(crate) fn ready(
        self,
        order: &OrderRecord,
        own: &Station,
        reachable: &str,
    ) -> io::Result<()> {
        let OrderRecord { name, subnet, port, .. } = order;
        let (ipv6, prefix) = order.segment().ipv6;
        let text = format!(
            "{name}  {subnet}  {ipv6}/{prefix}  you are {}  port {port} udp+tcp  reachable: \
             {reachable}",
            own.ipv4
        );
        let object = json!({
            "event": "ready", "order": name, "id": order.id().to_string(),
            "subnet": subnet.to_string(), "ipv6": format!("{ipv6}/{prefix}"), "you": own.ipv4,
            "you6": own.ipv6, "port": port, "reachable": reachable,
        });
        self.print(&text, &object)
    }

    /// A ticket was written to a file.
    pub(crate) fn ticket(self, guest: &str, file: &str) -> io::Result<()> {
        let object = json!({ "event": "ticket", "guest": guest, "file": file });
        self.print(&format!("ticket {guest} → {file}"), &object)
    }

    /// A guest is there: its seller was let in and data passed, or did not yet.
    pub(crate) fn joined(
        self,
        member: &MemberInfo,
        remote: IpAddr,
        took: Option<Duration>,
    ) -> io::Result<()> {
        let (name, ipv4) = (&member.record.name, member.station.ipv4);
        let text = match took {
            Some(took) => format!("{name} joined {ipv4} from {remote} in {} ms", took.as_millis()),
            None => format!("{name} joined {ipv4} from {remote}, no data path yet"),
        };
        let object = json!({
            "event": "joined", "guest": name, "ipv4": ipv4, "ipv6": member.station.ipv6,
            "from": remote, "seller": member.record.seller.full(),
            "ms": took.map(|took| took.as_secs_f64() * 1e3),
        });
        self.print(&text, &object)
    }

    /// The path to a guest changed.
    pub(crate) fn path(self, guest: &str, path: PathKind, reason: &str) -> io::Result<()> {
        let (kind, remote) = match path {
            PathKind::None => ("none", None),
            PathKind::Direct(remote) => ("direct", Some(remote.to_string())),
            PathKind::Relay => ("relay", None),
        };
        let shown = remote.as_ref().map_or(String::new(), |remote| format!(" {remote}"));
        let object = json!({
            "event": "path", "guest": guest, "path": kind, "remote": remote, "reason": reason,
        });
        self.print(&format!("{guest} path {kind}{shown} ({reason})"), &object)
    }

    /// A guest's first frame came here since this program runs.
    pub(crate) fn first_frame(self, guest: &str) -> io::Result<()> {
        let object = json!({ "event": "first_frame", "guest": guest });
        self.print(&format!("{guest} up (its first frame came)"), &object)
    }

    /// A guest's seller took it away.
    pub(crate) fn left(self, guest: &str) -> io::Result<()> {
        self.print(&format!("{guest} left"), &json!({ "event": "left", "guest": guest }))
    }

    /// A guest's grant ran out: nothing flows until it is renewed.
    pub(crate) fn suspended(self, guest: &str, life: Duration) -> io::Result<()> {
        let text = format!("{guest} suspended (no renewal for {})", duration::show(life));
        let object = json!({ "event": "suspended", "guest": guest, "life_s": life.as_secs() });
        self.print(&text, &object)
    }

    /// A suspended guest's grant was renewed.
    pub(crate) fn resumed(self, guest: &str) -> io::Result<()> {
        self.print(&format!("{guest} resumed"), &json!({ "event": "resumed", "guest": guest }))
    }

    /// The buyer took a guest out of the order.
    pub(crate) fn evicted(self, guest: &str) -> io::Result<()> {
        self.print(&format!("{guest} evicted"), &json!({ "event": "evicted", "guest": guest }))
    }

    /// Another seller has the guest's place now, by a ticket made to replace it.
    pub(crate) fn replaced(self, member: &MemberInfo) -> io::Result<()> {
        let (guest, seller) = (&member.record.name, member.record.seller);
        let object = json!({ "event": "replaced", "guest": guest, "seller": seller.full() });
        self.print(&format!("{guest} replaced (seller {seller} has its place now)"), &object)
    }

    /// A guest is heard no more, neither by data nor by control.
    pub(crate) fn lost(self, guest: &str) -> io::Result<()> {
        self.print(&format!("{guest} lost"), &json!({ "event": "lost", "guest": guest }))
    }
}

#[cfg(test)]
mod tests;
