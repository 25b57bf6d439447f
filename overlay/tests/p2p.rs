//! The control plane between real sockets on loopback: joins, member streams, strangers.
#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod net;

use std::time::Duration;

use net::*;
use overlay::p2p::{self, DialError, GatewayEvent};
use overlay_proto::control::{Command, Slot};
use overlay_proto::messages::{JOIN_PROTOCOL, JOIN_VERSION, JoinReply, RefuseReason};
use overlay_proto::messages::{ToGateway, ToMember};
use tokio::time::timeout;
use vde_switch::time::Instant;

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
    let outcome = book.handle_join(peer, remote.ip(), &request, NOW, Instant::ZERO);
    reply.send(outcome.reply).unwrap();
    let (reply, mut seller) = asking.await.unwrap();
    let JoinReply::Welcome(welcome) = reply else { panic!("{reply:?}") };
    let commands = member.handle_welcome(&welcome, Instant::ZERO).unwrap();
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
    let grant = book.renew(peer, slot, nonce, Instant::ZERO).unwrap();
    sender.send(ToMember::Grant(grant)).await.unwrap();
    let message = from_gateway.recv().await.unwrap();
    let told = member.handle_message(message, Instant::ZERO).unwrap();
    assert!(matches!(told[..], [Command::Live(_)]), "{told:?}");
    assert!(
        timeout(Duration::from_secs(5), async {
            while seller.observed().is_none() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .is_ok()
    );

    // A member that has nothing to say says so.
    let GatewayEvent::Heard { stream: heard } = next(&mut events).await else {
        panic!("no heartbeat");
    };
    assert_eq!(heard, stream);

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
    let refused = JoinReply::Refused(RefuseReason::Version(JOIN_VERSION));
    assert_eq!(rest[4..], overlay_proto::envelope::encode(&refused));
    assert!(events.try_recv().is_err(), "nonsense reached the program");
}
