//! The signed forms, byte for byte: a change here breaks tickets and members that are out there.
#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;

use common::*;
use data_encoding::HEXLOWER;
use overlay_proto::envelope::{Envelope, Kind, Signed};
use overlay_proto::grant::Grant;
use overlay_proto::order::{Config, Order};
use overlay_proto::roster::Roster;
use overlay_proto::ticket::Ticket;

const ENVELOPE: &str = "\
    0100018a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c000000077061796c6f61\
    64f72ce3431c00d9b019150402987565c94b3e09a170c0fd819a54b9803b4190be925f72026f0c112509b50064\
    d2f51aaa3c834adcb44ac94604a2b93400b0780f";
const ORDER: &str = "\
    0100018a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c000000308a88e3dd7409\
    f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c0202020202020202020202020202020224842f\
    8673f62d2aa024035bbc8f9df7aa6d7a1fc5e5bc138fecec05d86360f6d0daaead7372b6f295065c610911ce88\
    f845609cddb37f7e2d277ed8e489b30f";
const ORDER_ID: &str = "\
    65a670c2148c4b3bb57a8409168cd44d8ff10f9f7c3fa8ceec39931717b89874";
const CONFIG: &str = "\
    0100028a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c000000ae65a670c2148c\
    4b3bb57a8409168cd44d8ff10f9f7c3fa8ceec39931717b8987401046661726d0a4d000018fd6567495bd0e521\
    000000000000000040dc0b000303030303030303030303030303030303030303030303030303030303030303b2\
    8353b679170a4d0002fd6567495bd0e521000000000000000201010d72656c61792e6578616d706c65bb038407\
    02000a4d000201fd6567495bd0e521000000000000000201c0a80900180a4d0002e75dbeec42b51e94c0857651\
    5a98f195e48907a21944cddf2b0f475a5252eaaaed973e2c1b9a3f7383bcefdbe495cfe5fc04e4dbb835fce039\
    6a3623326ec70f";
const TICKET: &str = "\
    ovl1qyqq8z5gu0whgz03jh749ked8ja96uk2vuym78v5zgdlxaygqx6q7m6uqqqqqkszqgpqyqszqgpqyqszqgpqyq\
    szq3nxzundqypxwvgrqqqzeqqpqtdrcqqp9gqpg5qqqqqqqqqqqqqqqqqqqldrcqg2vamjuetcv9khqmr9mg7qqpqy\
    qszqgpqyqszqgpqyqszqgpyq5jna5pjtss5rvxvfym579a5gnjyw4uaaqmle8aag2zqcpymuye4ever6aqa85y7ckr\
    wk5u5aq5yrswtcxc63h4tr25mwrtd56gr88csr06hsjjun4k4";
const GRANT: &str = "\
    0100048a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c0000009d65a670c2148c\
    4b3bb57a8409168cd44d8ff10f9f7c3fa8ceec39931717b89874c050c5637a44fa8629fff3cccce2300cb362a6\
    3d99d95fc54145266f4332445aa1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1\
    01026731ce816b3c57b40a4d000afd6567495bd0e521000000000000000ac0b2cd3b0001018080808010008407\
    0606060606060606060606060606060673257c6d8d96f6a3fbc05d70d28361f7aa79f88a9d12bb58d62e5376e7\
    8581b077a751f2bfcd7e0d1b08397c1394891d665b11891b48859e4c7190e8bf0f2b0a";
const ROSTER: &str = "\
    0100058a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c0000024365a670c2148c\
    4b3bb57a8409168cd44d8ff10f9f7c3fa8ceec39931717b898740105000284020100048a88e3dd7409f195fd52\
    db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c0000009d65a670c2148c4b3bb57a8409168cd44d8ff10f\
    9f7c3fa8ceec39931717b89874c050c5637a44fa8629fff3cccce2300cb362a63d99d95fc54145266f4332445a\
    a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a101026731ce816b3c57b40a4d00\
    0afd6567495bd0e521000000000000000ac0b2cd3b000101808080801000840706060606060606060606060606\
    06060673257c6d8d96f6a3fbc05d70d28361f7aa79f88a9d12bb58d62e5376e78581b077a751f2bfcd7e0d1b08\
    397c1394891d665b11891b48859e4c7190e8bf0f2b0a01002c800201da3c0084020100048a88e3dd7409f195fd\
    52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c0000009d65a670c2148c4b3bb57a8409168cd44d8ff1\
    0f9f7c3fa8ceec39931717b898742012cb90ca60e8e5d8daf66e2272d2233e0486d557e8c66141ed8920177d7e\
    b7a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a202026732460fae7ff30d0a4d\
    000bfd6567495bd0e521000000000000000bc0b2cd3b0001018080808010008407060606060606060606060606\
    060606065278f06f8209e54c2035dcb1dbbd8f9414e0a7a168ff77b907374c50b486350ee5dd9d82405bcc96cd\
    156d310bd3c29cb5790f394ea1b964800bc9c7b1a8ce0401002c800202da3c0000e637d10742231ba11b430c49\
    74f9a5d76bb3613416ced3b7cd463ffee79f2e39f3937e24712d265b0f90eb68807c2aba8977a61d7385ccd120\
    c93b9c4ab93106";

fn bytes(hex: &str) -> Vec<u8> {
    HEXLOWER.decode(hex.as_bytes()).unwrap()
}

#[track_caller]
fn assert_golden(name: &str, golden: &str, bytes: &[u8]) {
    let hex = HEXLOWER.encode(bytes);
    assert_eq!(hex, golden, "{name} has another form than before");
}

#[test]
fn an_envelope_keeps_its_form() {
    assert_golden("ENVELOPE", ENVELOPE, &Envelope::seal(Kind::Order, &buyer(), b"payload"));
    let sealed = bytes(ENVELOPE);
    let opened = Envelope::open(&sealed, Kind::Order).unwrap();
    assert_eq!((opened.key, opened.payload), (buyer().id(), &b"payload"[..]));
}

#[test]
fn an_order_keeps_its_form_and_id() {
    let signed = Signed::seal(&buyer(), order());
    assert_golden("ORDER", ORDER, signed.bytes());
    assert_golden("ORDER_ID", ORDER_ID, &order().id().0);
    assert_eq!(signed.id(), order().id().0);
    assert_eq!(*Signed::<Order>::open(&bytes(ORDER)).unwrap().body(), order());
}

#[test]
fn a_config_keeps_its_form() {
    assert_golden("CONFIG", CONFIG, Signed::seal(&buyer(), config()).bytes());
    let signed = Signed::<Config>::open(&bytes(CONFIG)).unwrap();
    Config::check(&signed, order().id(), buyer().id()).unwrap();
    assert_eq!(*signed.body(), config());
}

#[test]
fn a_ticket_keeps_its_text() {
    assert_eq!(ticket().encode(), TICKET, "TICKET has another form than before");
    let read = Ticket::decode(TICKET).unwrap();
    assert_eq!((read.order(), read.buyer()), (order().id(), buyer().id()));
    assert_eq!(*read.body(), ticket_body());
}

#[test]
fn a_grant_keeps_its_form() {
    assert_golden("GRANT", GRANT, Signed::seal(&buyer(), grant(1)).bytes());
    let signed = Grant::open(&bytes(GRANT), order().id(), buyer().id()).unwrap();
    assert_eq!(*signed.body(), grant(1));
}

#[test]
fn a_roster_keeps_its_form() {
    assert_golden("ROSTER", ROSTER, Signed::seal(&buyer(), roster()).bytes());
    assert_eq!(*Signed::<Roster>::open(&bytes(ROSTER)).unwrap().body(), roster());
}
