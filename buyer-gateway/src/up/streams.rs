//! The open member streams, and what each was told of the order.

use std::collections::BTreeMap;

use overlay::p2p::StreamId;
use overlay_proto::control::Slot;
use overlay_proto::identity::NodeId;
use overlay_proto::messages::ToMember;
use overlay_proto::registry::{Registry, Seen};
use tokio::sync::mpsc;

/// An open member stream.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) peer: NodeId,
    sender: mpsc::Sender<ToMember>,
    /// Whose, once it said hello, and what it was told.
    member: Option<(Slot, Seen)>,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Streams {
    open: BTreeMap<StreamId, Stream>,
}

impl Streams {
    /// Takes a stream that has not said hello yet.
    pub(super) fn open(&mut self, id: StreamId, peer: NodeId, sender: mpsc::Sender<ToMember>) {
        self.open.insert(id, Stream { peer, sender, member: None });
    }

    /// Says whether a stream is open.
    pub(super) fn is_open(&self, id: StreamId) -> bool {
        self.open.contains_key(&id)
    }

    /// Returns whose stream it is, once that is known.
    pub(super) fn slot(&self, id: StreamId) -> Option<Slot> {
        self.open.get(&id)?.member.as_ref().map(|(slot, _)| *slot)
    }

    /// Takes a hello that was believed.
    pub(super) fn set_member(&mut self, id: StreamId, slot: Slot, seen: Seen) {
        if let Some(stream) = self.open.get_mut(&id) {
            stream.member = Some((slot, seen));
        }
    }

    /// Says whether a member has a stream.
    pub(super) fn has(&self, slot: Slot) -> bool {
        self.of(slot).next().is_some()
    }

    /// Returns the streams of a member.
    pub(super) fn of(&self, slot: Slot) -> impl Iterator<Item = (StreamId, NodeId)> {
        let is_its = move |stream: &Stream| stream.member.as_ref().is_some_and(|m| m.0 == slot);
        self.open.iter().filter(move |(_, s)| is_its(s)).map(|(id, s)| (*id, s.peer))
    }

    /// Finds a stream by its number.
    pub(super) fn numbered(&self, number: u64) -> Option<StreamId> {
        self.open.keys().find(|id| id.number() == number).copied()
    }

    /// Forgets a stream, which closes it once what was said on it is sent; returns whose it was.
    pub(super) fn close(&mut self, id: StreamId) -> Option<Slot> {
        self.open.remove(&id)?.member.map(|(slot, _)| slot)
    }

    /// Says something; tells whether it was taken.
    pub(super) fn send(&mut self, id: StreamId, message: ToMember) -> bool {
        let Some(stream) = self.open.get(&id) else { return true };
        match stream.sender.try_send(message) {
            Ok(()) => true,
            Err(error) => {
                tracing::info!(peer = %stream.peer, %error, "a member stream was dropped");
                false
            }
        }
    }

    /// Tells every member what is new in the registry; returns the streams that did not take it.
    pub(super) fn spread(&mut self, registry: &Registry) -> Vec<StreamId> {
        let mut news = Vec::new();
        for (id, stream) in &mut self.open {
            if let Some((_, seen)) = &mut stream.member {
                news.extend(registry.news(seen).into_iter().map(|message| (*id, message)));
            }
        }
        let mut full: Vec<_> = news
            .into_iter()
            .filter_map(|(id, message)| (!self.send(id, message)).then_some(id))
            .collect();
        full.dedup();
        full
    }
}
