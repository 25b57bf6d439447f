//! The root part of a running order: the buyer's tap, its packet filter, and the data plane's
//! process.
//!
//! # Theory of operation
//! [`serve`] is the one loop of a process with one thread ([`overlay::helper`]). What control may
//! ask is [`Ask`], each question checked before it is carried out:
//!
//! - [`Ask::Ready`] and [`Ask::Remove`], said as root before any byte from outside: the order's
//!   socket, what to remove in the end. Once each.
//! - [`Ask::Plug`]: the tap that the command line named, behind its filter. Once; each number
//!   within its bounds.
//! - [`Ask::Start`]: a data plane on the order's socket. Once.
//! - [`Ask::SetMtu`]: the order's new MTU, within its bounds.
//! - [`Ask::Keep`]: the order stays when the program ends.
//!
//! # Limits
//! It hears no network and reads no byte of a guest. A killed helper leaves the filter, which the
//! next start of the order replaces; the tap goes with the data plane.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, bail};
use overlay::confine::data_plane_user;
use overlay::exit::{Exit, Fault, exit_of, text_of};
use overlay::helper::{Helper, Leftovers};
use overlay::host::filter::Exposed;
use overlay_proto::names::Name;
use overlay_proto::order::{MTU_MAX, MTU_MIN};
use serde::{Deserialize, Serialize};
use vde_attach::link;
use vde_attach::tap::IfName;
use vde_switch::station::{Segment, Station};

use crate::segment::{self, BuyersEnd};

/// How long the helper waits when nothing happens.
const WAIT: Duration = Duration::from_secs(60);

/// What control asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Ask {
    /// The first words, said as root; the order's UDP socket is beside them. Answered.
    Ready {
        /// The socket's port.
        port: u16,
        /// What to remove in the end.
        leftovers: Leftovers,
    },
    /// The buyer's end of the segment. Answered, with the data plane's end of its cable.
    Plug {
        /// This computer.
        own: Station,
        /// On which segment.
        segment: Segment,
    },
    /// A data plane. Answered, with control's end of its socket.
    Start,
    /// The tap's new MTU, in bytes of L3. Answered.
    SetMtu(u16),
    /// What to remove in the end, once more; said as root. Answered.
    Remove(Leftovers),
    /// The order stays when the program ends.
    Keep,
}

/// What the helper says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Tell {
    /// What was asked is done.
    Done,
    /// What was asked is not done, or the order ends.
    Refused {
        /// How the program ends over it.
        exit: u8,
        /// Why, for the user.
        text: String,
    },
}

impl Tell {
    /// Returns the reason of a refusal.
    pub(crate) fn into_result(self) -> Result<(), Fault> {
        let Self::Refused { exit, text } = self else { return Ok(()) };
        let exit = Exit::ALL.into_iter().find(|known| *known as u8 == exit);
        Err(Fault::new(exit.unwrap_or(Exit::Failed), text))
    }
}

/// Most questions between two looks at what may have ended.
const QUESTIONS_A_TURN: usize = 8;

/// What an order's helper knows from the command line.
#[derive(Debug)]
pub(crate) struct Desk {
    /// The order's name.
    pub(crate) order: Name,
    /// Its tap.
    pub(crate) tap: IfName,
    /// What guests may reach.
    pub(crate) exposed: Vec<Exposed>,
}

/// What it has made.
#[derive(Debug, Default)]
struct Made {
    socket: Option<(OwnedFd, u16)>,
    is_started: bool,
    /// Whether control has said its last words as root.
    is_listening: bool,
    end: Option<BuyersEnd>,
}

/// Serves control until it has ended, and ends what still runs; says how the program ends.
pub(crate) fn serve(mut helper: Helper, desk: &Desk) -> Exit {
    let mut made = Made::default();
    while !helper.is_over() {
        if let Err(error) = helper.wait(&[], WAIT) {
            tracing::error!(%error, "the helper cannot wait");
            break;
        }
        for _ in 0..QUESTIONS_A_TURN {
            let Some((question, fds)) = helper.asked::<Ask>() else { break };
            if let Err(error) = desk.handle(&mut helper, &mut made, question, fds) {
                refuse(&helper, &error);
            }
        }
        if let Some(status) = helper.data_plane_ended().filter(|status| !status.success()) {
            refuse(&helper, &anyhow::anyhow!("the data plane has ended with {status}"));
        }
    }
    // The order of ends: data plane and tap, then the filter.
    helper.finish()
}

fn refuse(helper: &Helper, error: &anyhow::Error) {
    let (exit, text) = (exit_of(error.chain()) as u8, text_of(error.chain()));
    helper.tell(&Tell::Refused { exit, text }, &[]);
}

impl Desk {
    fn handle(
        &self,
        helper: &mut Helper,
        made: &mut Made,
        question: Ask,
        fds: Vec<OwnedFd>,
    ) -> anyhow::Result<()> {
        match question {
            Ask::Ready { port, leftovers } if made.socket.is_none() => {
                let udp = fds.into_iter().next().context("no socket came with the first words")?;
                made.socket = Some((udp, port));
                helper.set_leftovers(leftovers);
                helper.tell(&Tell::Done, &[]);
            }
            Ask::Plug { own, segment } if made.socket.is_some() && made.end.is_none() => {
                let fits = is_mtu(segment.mtu) && segment.ipv4.1 <= 32 && segment.ipv6.1 <= 128;
                if !fits || own.mac.is_group() {
                    bail!("the control process asks for a tap that no order means");
                }
                let (end, cable) =
                    segment::make(&self.order, &self.tap, own, &segment, &self.exposed)?;
                made.end = Some(end);
                helper.tell(&Tell::Done, &[cable.as_fd()]);
            }
            Ask::Start if !made.is_started => {
                let (udp, port) = made.socket.as_ref().context("no socket yet")?;
                let end = helper
                    .start_data_plane(udp, data_plane_user(*port)?, None)
                    .context("the data plane does not start")?;
                made.is_started = true;
                helper.tell(&Tell::Done, &[end.as_fd()]);
            }
            Ask::SetMtu(mtu) if is_mtu(mtu) && made.end.is_some() => {
                link::set_mtu(&self.tap, mtu)?;
                helper.tell(&Tell::Done, &[]);
            }
            // Control has left root when it listens; what it says of files then is not heard.
            Ask::Remove(leftovers) if !made.is_listening => {
                made.is_listening = true;
                helper.set_leftovers(leftovers);
                helper.tell(&Tell::Done, &[]);
            }
            Ask::Keep => helper.keep(),
            Ask::Ready { .. } | Ask::Plug { .. } | Ask::Start | Ask::SetMtu(_) | Ask::Remove(_) => {
                bail!("the control process asks out of turn")
            }
        }
        Ok(())
    }
}

fn is_mtu(mtu: u16) -> bool {
    (MTU_MIN..=MTU_MAX).contains(&mtu)
}
