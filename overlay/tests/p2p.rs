//! The control plane between real sockets on loopback: joins, member streams, strangers.
#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use overlay::p2p::{self, DialError, GatewayEvent, GatewayNet, SellerNet};
use overlay_proto::addressing::Subnet;
use overlay_proto::control::{Command, Slot};
use overlay_proto::dial::{DialRules, Lan};
use overlay_proto::identity::{NodeId, NodeKey};
use overlay_proto::membership::{Membership, SellerHost};
use overlay_proto::messages::{JOIN_PROTOCOL, JoinReply, RefuseReason, ToGateway, ToMember};
use overlay_proto::order::Order;
use overlay_proto::registry::{OrderRecord, Registry};
use overlay_proto::ticket::{DialAddr, Ticket, TicketSecret};
use tokio::sync::mpsc::Receiver;
use tokio::time::timeout;
use vde_switch::time::Instant;

const NOW: u64 = 1_800_000_000;

fn key(seed: u8) -> NodeKey {
    NodeKey::from_seed(&[seed; 32])
}

fn registry() -> Registry {
    let order = Order { buyer: key(1).id(), nonce: [3; 16] };
    let subnet = Subnet::new(Ipv4Addr::new(10, 77, 0, 0), 24).unwrap();
    let record = OrderRecord::new(order, "farm".parse().unwrap(), subnet, [5; 32]);
    let mut registry = Registry::open(key(1), record, Vec::new(), Vec::new()).unwrap();
    let reach = DialAddr::Ip(SocketAddr::from(([44, 128, 1, 2], 7770)));
    registry.set_reach(vec![reach], Vec::new(), 7770);
    registry
}

fn ticket(registry: &mut Registry) -> Ticket {
    registry.invite(None, TicketSecret([9; 16]), NOW + 3600).unwrap().0
}

fn membership(ticket: &Ticket, seller: NodeId) -> Membership {
    let host = SellerHost {
        seller,
        data_key: seller.0,
        only_buyer: false,
        rules: DialRules { lan: Lan::Refused, links: Vec::new() },
        gateway: vec![SocketAddr::from(([44, 128, 1, 2], 7770))],
    };
    Membership::new(ticket.clone(), host)
}

async fn serve(key: &NodeKey) -> (GatewayNet, Receiver<GatewayEvent>) {
    p2p::serve(key, vec![SocketAddr::from(([127, 0, 0, 1], 0))]).await.unwrap()
}

async fn dial(seller: u8, gateway: &GatewayNet) -> SellerNet {
    p2p::dial(&key(seller), gateway.listening().to_vec(), key(1).id()).await.unwrap()
}

async fn next(events: &mut Receiver<GatewayEvent>) -> GatewayEvent {
    timeout(Duration::from_secs(10), events.recv()).await.expect("an event in time").unwrap()
}

/// Answers joins from a registry until the test ends.
fn answer_joins(mut registry: Registry, mut events: Receiver<GatewayEvent>) {
    tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            if let GatewayEvent::Join { peer, remote, request, reply } = event {
                let outcome = registry.handle_join(peer, remote.ip(), &request, NOW);
                reply.send(outcome.reply).unwrap();
            }
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seller_joins_and_both_ends_talk_on_the_member_stream() {
    let mut book = registry();
    let ticket = ticket(&mut book);
    let (gateway, mut events) = serve(&key(1)).await;
    let mut seller = dial(2, &gateway).await;
    assert_eq!(seller.remote(), gateway.listening()[0]);
    let mut member = membership(&ticket, key(2).id());
    let request = member.request([7; 16], Instant::ZERO);

    let asking = tokio::spawn(async move { (seller.join(&request).await.unwrap(), seller) });
    let GatewayEvent::Join { peer, remote, request, reply } = next(&mut events).await else {
        panic!("no join");
    };
    assert_eq!((peer, remote.ip()), (key(2).id(), [127, 0, 0, 1].into()));
    let outcome = book.handle_join(peer, remote.ip(), &request, NOW);
    reply.send(outcome.reply).unwrap();
    let (reply, mut seller) = asking.await.unwrap();
    let JoinReply::Welcome(welcome) = reply else { panic!("{reply:?}") };
    let commands = member.handle_welcome(&welcome).unwrap();
    assert!(commands.contains(&Command::Connect(Slot::GATEWAY)));

    let (to_gateway, mut from_gateway) =
        seller.member(member.hello(Vec::new()).unwrap()).await.unwrap();
    let GatewayEvent::Opened { stream, peer, sender, .. } = next(&mut events).await else {
        panic!("no stream");
    };
    assert_eq!(peer, key(2).id());
    let GatewayEvent::Message { message: ToGateway::Hello { slot, .. }, .. } =
        next(&mut events).await
    else {
        panic!("no hello");
    };
    assert_eq!(slot, Slot(1));

    to_gateway.send(member.renew([8; 16], Instant::ZERO)).await.unwrap();
    let GatewayEvent::Message { message: ToGateway::Renew { nonce }, .. } = next(&mut events).await
    else {
        panic!("no renewal");
    };
    let grant = book.renew(peer, slot, nonce).unwrap();
    sender.send(ToMember::Grant(grant)).await.unwrap();
    let message = from_gateway.recv().await.unwrap();
    assert_eq!(member.handle_message(message).unwrap(), Vec::new());
    assert!(
        timeout(Duration::from_secs(5), async {
            while seller.observed().is_none() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .is_ok()
    );

    drop(sender);
    assert_eq!(from_gateway.recv().await, None);
    timeout(Duration::from_secs(5), to_gateway.closed()).await.unwrap();
    let GatewayEvent::Closed { stream: closed, .. } = next(&mut events).await else {
        panic!("not closed");
    };
    assert_eq!(closed, stream);
    drop(gateway);
    timeout(Duration::from_secs(5), seller.disconnected()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_key_and_nobody_are_told_apart() {
    let (stranger, _events) = serve(&key(66)).await;
    let error = p2p::dial(&key(2), stranger.listening().to_vec(), key(1).id()).await.unwrap_err();
    assert!(matches!(error, DialError::AnotherKey { .. }), "{error}");
    assert!(error.to_string().contains(&key(66).id().to_string()), "{error}");

    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = p2p::dial(&key(2), vec![closed], key(1).id()).await.unwrap_err();
    assert!(matches!(&error, DialError::Unreachable(why) if why.contains("refused")), "{error}");

    let (gateway, _events) = serve(&key(1)).await;
    let addrs = [&[closed], stranger.listening(), gateway.listening()].concat();
    let seller = p2p::dial(&key(2), addrs, key(1).id()).await.unwrap();
    assert_eq!(seller.remote(), gateway.listening()[0]);

    let error = p2p::dial(&key(2), Vec::new(), key(1).id()).await.unwrap_err();
    assert!(matches!(error, DialError::NoAddress), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_joins_with_one_ticket_one_wins_and_may_come_again() {
    let mut book = registry();
    let ticket = ticket(&mut book);
    let (gateway, events) = serve(&key(1)).await;
    answer_joins(book, events);
    let (mut a, mut b) = (dial(2, &gateway).await, dial(3, &gateway).await);
    let request = |seed| membership(&ticket, key(seed).id()).request([seed; 16], Instant::ZERO);
    let (for_a, for_b) = (request(2), request(3));
    let (first, second) = tokio::join!(a.join(&for_a), b.join(&for_b));
    let (first, second) = (first.unwrap(), second.unwrap());
    let won = |reply: &JoinReply| matches!(reply, JoinReply::Welcome(_));
    assert_ne!(won(&first), won(&second), "{first:?} {second:?}");
    let (winner, request, loser) =
        if won(&first) { (&mut a, for_a, second) } else { (&mut b, for_b, first) };
    assert_eq!(loser, JoinReply::Refused(RefuseReason::TicketUsed));
    assert!(won(&winner.join(&request).await.unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_joins_at_once_are_all_answered() {
    let mut book = registry();
    let ticket = ticket(&mut book);
    let (gateway, events) = serve(&key(1)).await;
    answer_joins(book, events);
    let mut joins = tokio::task::JoinSet::new();
    for seed in 10..42 {
        let mut seller = dial(seed, &gateway).await;
        let request = membership(&ticket, key(seed).id()).request([seed; 16], Instant::ZERO);
        joins.spawn(async move { seller.join(&request).await.unwrap() });
    }
    let replies = joins.join_all().await;
    let won = replies.iter().filter(|reply| matches!(reply, JoinReply::Welcome(_))).count();
    assert_eq!((won, replies.len()), (1, 32));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_length_above_the_limit_closes_the_stream_and_reaches_nobody() {
    use futures::{AsyncReadExt, AsyncWriteExt};
    let (gateway, mut events) = serve(&key(1)).await;
    let mut control = raw_swarm(&gateway).await;
    for len in [p2p::REQUEST_LEN_MAX as u32 + 1, u32::MAX] {
        let protocol = libp2p::StreamProtocol::new(JOIN_PROTOCOL);
        let mut stream = control.1.open_stream(control.0, protocol).await.unwrap();
        stream.write_all(&len.to_be_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        let mut rest = Vec::new();
        let read = timeout(Duration::from_secs(5), stream.read_to_end(&mut rest)).await;
        assert!(read.is_ok() && rest.is_empty(), "{len} bytes announced, {rest:?} came back");
    }
    let protocol = libp2p::StreamProtocol::new(JOIN_PROTOCOL);
    let mut stream = control.1.open_stream(control.0, protocol).await.unwrap();
    stream.write_all(&[0, 0, 0, 2, 9, 9]).await.unwrap();
    let mut rest = Vec::new();
    timeout(Duration::from_secs(5), stream.read_to_end(&mut rest)).await.unwrap().unwrap();
    let refused = JoinReply::Refused(RefuseReason::Version(9));
    assert_eq!(rest[4..], overlay_proto::envelope::encode(&refused));
    assert!(events.try_recv().is_err(), "nonsense reached the program");
}

/// Answers pings, or the gateway would hang up.
#[derive(libp2p::swarm::NetworkBehaviour)]
struct Raw {
    ping: libp2p::ping::Behaviour,
    streams: libp2p_stream::Behaviour,
}

/// A libp2p node that may say anything.
async fn raw_swarm(gateway: &GatewayNet) -> (libp2p::PeerId, libp2p_stream::Control) {
    use futures::StreamExt;
    use libp2p::swarm::SwarmEvent;
    let mut swarm = libp2p::SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(
            libp2p::tcp::Config::default(),
            libp2p::noise::Config::new,
            libp2p::yamux::Config::default,
        )
        .unwrap()
        .with_behaviour(|_| Raw {
            ping: libp2p::ping::Behaviour::default(),
            streams: libp2p_stream::Behaviour::new(),
        })
        .unwrap()
        .build();
    let at = gateway.listening()[0];
    let addr = libp2p::Multiaddr::from(at.ip()).with(libp2p::multiaddr::Protocol::Tcp(at.port()));
    swarm.dial(addr).unwrap();
    let control = swarm.behaviour().streams.new_control();
    let peer = loop {
        if let SwarmEvent::ConnectionEstablished { peer_id, .. } = swarm.select_next_some().await {
            break peer_id;
        }
    };
    tokio::spawn(async move { while swarm.next().await.is_some() {} });
    (peer, control)
}
