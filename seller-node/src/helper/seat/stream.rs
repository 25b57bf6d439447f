//! A guest at a unix socket: QEMU's `-netdev stream`, or what speaks like it.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use overlay::exit::{Exit, Fault};
use vde_attach::stream::{StreamError, StreamNews, StreamPort, StreamSeat};
use vde_switch::mac::MacAddr;

use crate::helper::ask::Wiring;

/// A socket's path, taken, and what serves it.
#[derive(Debug)]
pub(crate) struct SocketSeat {
    path: PathBuf,
    mac: MacAddr,
    /// Until the guest is plugged in.
    free: Option<StreamSeat>,
    port: Option<StreamPort>,
}

impl SocketSeat {
    /// Takes the path, and says what the user has to know.
    pub(super) fn find(path: &Path, mac: MacAddr) -> anyhow::Result<Self> {
        let free = StreamSeat::take(path).map_err(explain)?;
        super::note(&format!("the guest's network card must have the address {mac}"));
        Ok(Self { path: path.to_owned(), mac, free: Some(free), port: None })
    }

    pub(super) fn words(&self) -> String {
        format!("stream {} mac {}", self.path.display(), self.mac)
    }

    pub(super) fn plug(&mut self, wiring: &Wiring) -> anyhow::Result<OwnedFd> {
        let Some(free) = self.free.take() else { bail!("the guest is plugged in already") };
        let (port, cable) = free.start(wiring.segment.mtu, tell).context("no socket pair")?;
        self.port = Some(port);
        Ok(cable)
    }

    pub(super) fn follow(&self, wiring: &Wiring) {
        if let Some(port) = &self.port {
            port.set_mtu(wiring.segment.mtu);
        }
    }
}

fn tell(news: StreamNews) {
    match news {
        StreamNews::Up => tracing::info!("the guest's stream is connected"),
        StreamNews::Down(None) => tracing::info!("the guest's stream has ended"),
        StreamNews::Down(Some(lie)) => tracing::warn!("the guest's stream was closed: {lie}"),
        StreamNews::Lost(error) => tracing::error!(%error, "the guest's stream is lost"),
    }
}

/// Says how the program ends over it.
fn explain(error: StreamError) -> anyhow::Error {
    match &error {
        StreamError::NoPath(_) | StreamError::NoSocket(_) => {
            Fault::new(Exit::Usage, error.to_string()).into()
        }
        StreamError::OpenFolder(_) => Fault::new(Exit::Confinement, error.to_string()).into(),
        StreamError::NoFolder(_) | StreamError::InUse(_) | StreamError::System { .. } => {
            error.into()
        }
    }
}
