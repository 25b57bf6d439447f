//! Programs of different versions meet: they work together or one is refused in a sentence.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Result, bail, ensure};
use overlay::clock;
use overlay::p2p::{self, GatewayEvent};
use overlay_proto::addressing::Subnet;
use overlay_proto::messages::{JOIN_VERSION, JoinReply, RefuseReason};
use overlay_proto::order::Order;
use overlay_proto::registry::{OrderRecord, Registry};
use overlay_proto::ticket::{DialAddr, Ticket, TicketSecret};
use overlay_tests::caller;
use overlay_tests::lab::Host;
use overlay_tests::stage::Stage;
use tokio::sync::oneshot;
use vde_switch::time::Instant;

/// What a gateway of the next version speaks.
const NEXT_VERSION: u16 = JOIN_VERSION + 1;

const REFUSED: i32 = 3;

#[test]
fn a_newer_seller_is_told_which_version_is_spoken() -> Result<()> {
    let stage = Stage::build(&["buyer", "seller1"])?;
    let gateway = stage.open("buyer", "farm", &["--subnet", "10.77.0.0/24"])?;
    let ticket = Ticket::decode(&gateway.invite()?)?;
    let at = SocketAddr::from((stage.cable("buyer").host.ipv4, 7770));
    let key = caller::key(1);
    let newer = async {
        let mut net = p2p::dial(&key, vec![at], ticket.buyer()).await?;
        let mut request = caller::request(&ticket, &key);
        request.version = NEXT_VERSION;
        Ok(net.join(&request).await?)
    };
    let reply = caller::call(stage.host("seller1"), newer)?;
    ensure!(reply == JoinReply::Refused(RefuseReason::Version(JOIN_VERSION)), "{reply:?}");
    // The ticket is not spent by that.
    let (_, reply) = caller::call(stage.host("seller1"), caller::join(&key, &ticket, at))?;
    ensure!(matches!(reply, JoinReply::Welcome(_)), "{reply:?}");
    Ok(())
}

#[test]
fn an_older_seller_says_in_a_sentence_that_the_gateway_is_newer() -> Result<()> {
    let mut stage = Stage::build(&["buyer", "seller1"])?;
    let seat = stage.lab.guest("guest1")?;
    let at = SocketAddr::from((stage.cable("buyer").host.ipv4, 7770));
    let buyer = caller::key(1);
    let order = Order { buyer: buyer.id(), nonce: [3; 16] };
    let Some(subnet) = Subnet::new(Ipv4Addr::new(10, 77, 0, 0), 24) else { bail!("no subnet") };
    let record = OrderRecord::new(order, "farm".parse()?, subnet, [5; 32]);
    let now = clock::unix_seconds();
    let mut book = Registry::open(buyer, record, Vec::new(), Vec::new(), now, Instant::ZERO)?;
    book.set_reach(vec![DialAddr::Ip(at)], Vec::new(), 7770);
    let (ticket, _) = book.invite(None, TicketSecret([9; 16]), now + 3600, now, Instant::ZERO)?;
    let host = stage.host("seller1");
    let file = host.dir().join("newer.ovl");
    fs::write(&file, ticket.encode())?;

    let (stop, stopped) = oneshot::channel();
    let gateway_host = stage.host("buyer").clone();
    let gateway = std::thread::spawn(move || newer_gateway(&gateway_host, at, stopped));
    let state = host.dir().join("state");
    let line = format!(
        "{} --state {} join @{} --attach netns:{}",
        stage.programs.seller.display(),
        state.display(),
        file.display(),
        seat.netns()
    );
    let output = host.run(&line)?;
    // It has ended already if it failed.
    let _ = stop.send(());
    let Ok(served) = gateway.join() else { bail!("the gateway panicked") };
    ensure!(served? > 0, "nobody asked the newer gateway");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(REFUSED), "{}: {said}", output.status);
    ensure!(said.lines().count() == 1 && said.contains("version"), "{said}");
    ensure!(seat.must("ls /sys/class/net")?.trim() == "lo", "an interface was left behind");
    Ok(())
}

/// Answers joins as the next version would, until told to stop; returns how many.
fn newer_gateway(host: &Host, at: SocketAddr, mut stopped: oneshot::Receiver<()>) -> Result<usize> {
    caller::call(host, async move {
        let (_net, mut events) = p2p::serve(&caller::key(1), vec![at]).await?;
        let mut count = 0;
        loop {
            let event = tokio::select! {
                event = events.recv() => event,
                _ = &mut stopped => return Ok(count),
            };
            match event {
                Some(GatewayEvent::Join { reply, .. }) => {
                    count += 1;
                    let refused = RefuseReason::Version(NEXT_VERSION);
                    // A seller that has gone needs no answer.
                    let _ = reply.send(JoinReply::Refused(refused));
                }
                Some(_) => {}
                None => return Ok(count),
            }
        }
    })
}
