//! What `overlay-seller join` prints: the guest's line, then one line for each event.

use std::io;
use std::time::Duration;

use overlay::duration;
#[cfg(not(test))]
use overlay::output::line;
use overlay_proto::control::PathKind;
use overlay_proto::ticket::Ticket;
use serde_json::{Value, json};

#[cfg(test)]
use self::tests::line;
use super::news::News;
use crate::helper::ask::Wiring;

/// Prints lines for people, or objects for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    /// As documented, fields two spaces apart.
    Text,
    /// One JSON object a line.
    Json,
}

/// Names a path, and its remote address if there is one.
pub(crate) fn path_words(path: PathKind) -> (&'static str, Option<String>) {
    match path {
        PathKind::None => ("none", None),
        PathKind::Direct(remote) => ("direct", Some(remote.to_string())),
        PathKind::Relay => ("relay", None),
    }
}

impl Report {
    fn print(self, text: &str, object: &Value) -> io::Result<()> {
        match self {
            Self::Text => line(text),
            Self::Json => line(&object.to_string()),
        }
    }

    /// Data has passed both ways with the gateway.
    pub(crate) fn joined(
        self,
        ticket: &Ticket,
        wiring: &Wiring,
        attached: &str,
        path: PathKind,
        took: Duration,
    ) -> io::Result<()> {
        let (station, mtu) = (wiring.station, wiring.segment.mtu);
        let (order, guest) = (&ticket.body().order_name, &ticket.body().guest);
        let (path, remote) = path_words(path);
        let text = format!(
            "{guest}  {}  {}  mtu {mtu}  {attached}  order {order}  path {path}  joined in {} ms",
            station.ipv4,
            station.ipv6,
            took.as_millis()
        );
        let object = json!({
            "event": "joined", "guest": guest, "ipv4": station.ipv4, "ipv6": station.ipv6,
            "mac": station.mac.to_string(), "mtu": mtu, "attached": attached,
            "order": order, "id": ticket.order().to_string(), "path": path,
            "remote": remote, "ms": took.as_secs_f64() * 1e3,
        });
        self.print(&text, &object)
    }

    /// Something happened to the guest; [`News::Joined`] after it had joined is a new path.
    pub(crate) fn news(self, news: &News) -> io::Result<()> {
        match news {
            News::Joined(path) => self.path("buyer", *path, "joined again"),
            News::FirstFrame => self.guest_up(),
            News::Address => self.address_handed_out(),
            News::Path { to, path, reason } => self.path(to, *path, reason),
            News::Suspended(life) => self.suspended(*life),
            News::Resumed => self.resumed(),
            News::Control { up, reason } => self.control(*up, reason),
        }
    }

    /// The guest has ended, and its lease goes on for others that share it.
    pub(crate) fn goes_on(self, guests: &[String]) -> io::Result<()> {
        let object = json!({ "event": "goes_on", "guests": guests });
        let text = format!(
            "the lease goes on for {} and ends with the last of them: ^C once more ends it now",
            guests.join(", ")
        );
        self.print(&text, &object)
    }

    /// The lease that the guest shared has ended; it has one of its own now, or shares another's.
    pub(crate) fn lease(self, of: Option<&str>) -> io::Result<()> {
        let object = json!({ "event": "lease", "of": of });
        let has =
            of.map_or("has a lease of its own".to_owned(), |of| format!("shares that of {of}"));
        self.print(&format!("the lease that this guest shared has ended: it {has} now"), &object)
    }

    /// The guest sent its first frame.
    pub(crate) fn guest_up(self) -> io::Result<()> {
        self.print("guest up (its first frame came)", &json!({ "event": "first_frame" }))
    }

    /// The guest asked for its address and has it.
    pub(crate) fn address_handed_out(self) -> io::Result<()> {
        self.print("address handed out (dhcp)", &json!({ "event": "address", "by": "dhcp" }))
    }

    /// The path to another member changed.
    pub(crate) fn path(self, to: &str, path: PathKind, reason: &str) -> io::Result<()> {
        let (kind, remote) = path_words(path);
        let shown = remote.as_ref().map_or(String::new(), |remote| format!(" {remote}"));
        let object = json!({
            "event": "path", "to": to, "path": kind, "remote": remote, "reason": reason,
        });
        self.print(&format!("path to {to} {kind}{shown} ({reason})"), &object)
    }

    /// The grant ran out: nothing flows until the buyer is heard again.
    pub(crate) fn suspended(self, life: Duration) -> io::Result<()> {
        let reason = format!("the buyer has not been heard for {}", duration::show(life));
        let object = json!({ "event": "suspended", "reason": reason });
        self.print(&format!("suspended: {reason}"), &object)
    }

    /// The grant was renewed.
    pub(crate) fn resumed(self) -> io::Result<()> {
        self.print("resumed", &json!({ "event": "resumed" }))
    }

    /// The control connection came back, or went.
    pub(crate) fn control(self, up: bool, reason: &str) -> io::Result<()> {
        let word = if up { "back" } else { "lost" };
        let object = json!({ "event": "control", "up": up, "reason": reason });
        self.print(&format!("control {word} ({reason})"), &object)
    }

    /// The guest's machine was started.
    pub(crate) fn guest_started(
        self,
        program: &str,
        pid: Option<u32>,
        accel: &str,
        console: Option<&str>,
    ) -> io::Result<()> {
        let shown_pid = pid.map_or(String::new(), |pid| format!(" pid {pid}"));
        let shown_console = console.map_or(String::new(), |path| format!("  console {path}"));
        let object = json!({
            "event": "guest_started", "program": program, "pid": pid, "accel": accel,
            "console": console,
        });
        self.print(&format!("vm {program}{shown_pid}  accel {accel}{shown_console}"), &object)
    }

    /// The guest's machine has ended; it is started again after `pause`, if there is one.
    pub(crate) fn guest_exited(self, status: &str, pause: Option<Duration>) -> io::Result<()> {
        let again = pause
            .map_or(String::new(), |pause| format!(", started again in {}", duration::show(pause)));
        let again_s = pause.map(|pause| pause.as_secs());
        let object = json!({ "event": "guest_exited", "status": status, "again_s": again_s });
        self.print(&format!("guest exited ({status}){again}"), &object)
    }
}

#[cfg(test)]
mod tests;
