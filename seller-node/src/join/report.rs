//! What `overlay-seller join` prints: the guest's line, then one line for each event.

use std::io;
use std::time::Duration;

use overlay::duration;
use overlay::output::line;
use overlay_proto::control::PathKind;
use overlay_proto::grant::Grant;
use overlay_proto::order::Config;
use serde_json::json;

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
    /// Data has passed both ways with the gateway.
    pub(crate) fn joined(
        self,
        grant: &Grant,
        config: &Config,
        attached: &str,
        path: PathKind,
        took: Duration,
    ) -> io::Result<()> {
        let (station, mtu) = (grant.station, config.segment.mtu);
        let (path, remote) = path_words(path);
        match self {
            Self::Text => line(&format!(
                "{}  {}  {}  mtu {mtu}  {attached}  order {}  path {path}  joined in {} ms",
                grant.name,
                station.ipv4,
                station.ipv6,
                config.name,
                took.as_millis()
            )),
            Self::Json => line(
                &json!({
                    "event": "joined", "guest": grant.name, "ipv4": station.ipv4,
                    "ipv6": station.ipv6, "mac": station.mac.to_string(), "mtu": mtu,
                    "attached": attached, "order": config.name, "id": config.order.to_string(),
                    "path": path, "remote": remote, "ms": took.as_secs_f64() * 1e3,
                })
                .to_string(),
            ),
        }
    }

    /// The path to another member changed.
    pub(crate) fn path(self, to: &str, path: PathKind, reason: &str) -> io::Result<()> {
        let (kind, remote) = path_words(path);
        match self {
            Self::Text => {
                let remote = remote.map_or(String::new(), |remote| format!(" {remote}"));
                line(&format!("path to {to} {kind}{remote} ({reason})"))
            }
            Self::Json => line(
                &json!({
                    "event": "path", "to": to, "path": kind, "remote": remote, "reason": reason,
                })
                .to_string(),
            ),
        }
    }

    /// The grant ran out: nothing flows until the buyer is heard again.
    pub(crate) fn suspended(self, life: Duration) -> io::Result<()> {
        let reason = format!("the buyer has not been heard for {}", duration::show(life));
        match self {
            Self::Text => line(&format!("suspended: {reason}")),
            Self::Json => line(&json!({ "event": "suspended", "reason": reason }).to_string()),
        }
    }

    /// The grant was renewed.
    pub(crate) fn resumed(self) -> io::Result<()> {
        match self {
            Self::Text => line("resumed"),
            Self::Json => line(&json!({ "event": "resumed" }).to_string()),
        }
    }

    /// The control connection came back, or went.
    pub(crate) fn control(self, up: bool, reason: &str) -> io::Result<()> {
        let word = if up { "back" } else { "lost" };
        match self {
            Self::Text => line(&format!("control {word} ({reason})")),
            Self::Json => {
                line(&json!({ "event": "control", "up": up, "reason": reason }).to_string())
            }
        }
    }
}
