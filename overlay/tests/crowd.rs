//! Strangers that hold connections, streams and windows: members and newcomers do not notice.
#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod net;

use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use futures::{AsyncReadExt, AsyncWriteExt};
use net::*;
use overlay::p2p::{GatewayEvent, GatewayNet, MESSAGE_TIMEOUT, PENDING_PER_ADDRESS_MAX, SellerNet};
use overlay_proto::control::Slot;
use overlay_proto::messages::{
    JOIN_PROTOCOL, JoinReply, MEMBER_PROTOCOL, Message, ToGateway, ToMember,
};
use tokio::sync::mpsc::{Receiver, Sender};
use tokio::time::timeout;
use vde_switch::time::Instant;

/// How long anything that must happen may take on a busy machine.
const SOON: Duration = Duration::from_secs(40);

/// Connections that a stranger opens: above all limits of connections in handshake.
const CROWD: usize = 380;

/// A member stream that says and hears.
struct Established {
    _net: SellerNet,
    to_gateway: Sender<ToGateway>,
    _from_gateway: Receiver<ToMember>,
    _from_us: Sender<ToMember>,
}

fn hello() -> ToGateway {
    ToGateway::Hello { slot: Slot(1), roster_version: 0, candidates: Vec::new() }
}

async fn established(gateway: &GatewayNet, events: &mut Receiver<GatewayEvent>) -> Established {
    let mut net = dial(2, gateway).await;
    let (to_gateway, from_gateway) = net.member(hello()).await.unwrap();
    loop {
        if let GatewayEvent::Opened { sender, .. } = next(events).await {
            let (_from_gateway, _from_us) = (from_gateway, sender);
            return Established { _net: net, to_gateway, _from_gateway, _from_us };
        }
    }
}

impl Established {
    /// Says something and waits until the gateway has heard it.
    async fn is_heard(&self, events: &mut Receiver<GatewayEvent>) {
        self.to_gateway.send(ToGateway::Renew { nonce: [7; 16] }).await.expect("the stream ended");
        let heard = async {
            loop {
                match events.recv().await.unwrap() {
                    GatewayEvent::Message { message: ToGateway::Renew { .. }, .. } => return,
                    GatewayEvent::Closed { peer, .. } => {
                        assert_ne!(peer, key(2).id(), "the member's stream ended");
                    }
                    _ => {}
                }
            }
        };
        timeout(SOON, heard).await.expect("the member is not heard");
    }
}

/// Connects from an address of loopback that honest sellers do not have.
fn connect_from_elsewhere(to: SocketAddr) -> TcpStream {
    use socket2::{Domain, Socket, Type};
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 2], 0)).into()).unwrap();
    socket.connect(&to.into()).unwrap();
    socket.into()
}

/// Says whether the other end has closed a connection.
fn is_closed(mut stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let mut bytes = [0; 1024];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return true,
            Ok(_) => {} // it may say what it speaks
            Err(error) => return error.kind() != std::io::ErrorKind::WouldBlock,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn half_open_connections_of_one_address_leave_room_and_end() {
    let (gateway, mut events) = serve(&key(1)).await;
    let member = established(&gateway, &mut events).await;
    let crowd: Vec<_> =
        (0..CROWD).map(|_| connect_from_elsewhere(gateway.listening()[0])).collect();
    let started_at = overlay::clock::now();
    member.is_heard(&mut events).await;
    let newcomer = dial(3, &gateway).await;
    drop(newcomer);
    let open = |crowd: &[TcpStream]| crowd.iter().filter(|stream| !is_closed(stream)).count();
    while open(&crowd) > PENDING_PER_ADDRESS_MAX {
        assert!(overlay::clock::now() - started_at < SOON, "{} are open", open(&crowd));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Whoever says one byte at a time keeps nothing open either.
    while open(&crowd) > 0 {
        for mut stream in &crowd {
            let _ = std::io::Write::write(&mut stream, &[0x13]);
        }
        assert!(overlay::clock::now() - started_at < SOON, "{} are open", open(&crowd));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    member.is_heard(&mut events).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_without_end_are_not_opened() {
    let (gateway, mut events) = serve(&key(1)).await;
    let member = established(&gateway, &mut events).await;
    let mut control = raw_swarm(&gateway).await;
    let mut streams = Vec::new();
    for protocol in [JOIN_PROTOCOL, MEMBER_PROTOCOL].into_iter().cycle().take(1000) {
        let opening = control.1.open_stream(control.0, libp2p::StreamProtocol::new(protocol));
        match timeout(Duration::from_secs(2), opening).await {
            Ok(Ok(stream)) => streams.push(stream),
            Ok(Err(_)) | Err(_) => break,
        }
    }
    assert!(streams.len() < 100, "{} streams of one connection are open", streams.len());
    member.is_heard(&mut events).await;
    drop(dial(3, &gateway).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_byte_at_a_time_is_read_and_half_a_message_is_not_waited_for() {
    let mut book = registry();
    let ticket = ticket(&mut book);
    let (gateway, events) = serve(&key(1)).await;
    answer_joins(book, events);
    let mut control = raw_swarm(&gateway).await;
    let open = async |control: &mut (libp2p::PeerId, libp2p_stream::Control)| {
        let protocol = libp2p::StreamProtocol::new(JOIN_PROTOCOL);
        control.1.open_stream(control.0, protocol).await.unwrap()
    };
    let request = membership(&ticket, key(9).id()).request([7; 16], Instant::ZERO).encode();
    let mut stream = open(&mut control).await;
    for byte in [&u32::try_from(request.len()).unwrap().to_be_bytes()[..], &request].concat() {
        stream.write_all(&[byte]).await.unwrap();
        stream.flush().await.unwrap();
    }
    let mut answer = Vec::new();
    timeout(SOON, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    let reply = JoinReply::decode(&answer[4..]).unwrap();
    assert!(matches!(reply, JoinReply::Welcome(_)), "{reply:?}");

    let mut half = open(&mut control).await;
    half.write_all(&[0, 0, 4]).await.unwrap();
    half.flush().await.unwrap();
    let mut vast = open(&mut control).await;
    // Its first four bytes are enough for the gateway to hang up while the others are written.
    let _ = vast.write_all(&(1_u64 << 63).to_be_bytes()).await;
    let _ = vast.flush().await;
    for (what, mut stream) in [("2^63", vast), ("half", half)] {
        let mut rest = Vec::new();
        let ended = timeout(MESSAGE_TIMEOUT * 4, stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok() && rest.is_empty(), "{what}: {rest:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_that_is_never_read_holds_a_bounded_queue_and_ends() {
    let (gateway, mut events) = serve(&key(1)).await;
    let member = established(&gateway, &mut events).await;
    let mut control = raw_swarm(&gateway).await;
    let protocol = libp2p::StreamProtocol::new(MEMBER_PROTOCOL);
    let mut deaf = control.1.open_stream(control.0, protocol).await.unwrap();
    let hello = hello().encode();
    let bytes = [&u32::try_from(hello.len()).unwrap().to_be_bytes()[..], &hello].concat();
    deaf.write_all(&bytes).await.unwrap();
    deaf.flush().await.unwrap();
    let (stream, sender) = loop {
        if let GatewayEvent::Opened { stream, sender, .. } = next(&mut events).await {
            break (stream, sender);
        }
    };
    let mut sent = 0;
    while sender.try_send(ToMember::Roster(vec![0; 200_000])).is_ok() {
        sent += 1;
        assert!(sent < 1000, "the queue has no end");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    member.is_heard(&mut events).await;
    let closed = async {
        loop {
            if let GatewayEvent::Closed { stream: closed, .. } = events.recv().await.unwrap() {
                assert_eq!(closed, stream, "another stream ended");
                return;
            }
        }
    };
    timeout(MESSAGE_TIMEOUT * 4, closed).await.expect("the deaf stream stays");
    member.is_heard(&mut events).await;
}
