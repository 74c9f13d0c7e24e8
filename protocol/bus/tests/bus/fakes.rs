//! The fake ports that the tests of the services stand on.

use cml_bus::{error::BusError, port::Slot, testing::fake};

use super::rig::system;

#[derive(Debug, PartialEq)]
struct Double(u32);

cml_bus::request!(Double => u32, BusError, "fakes.double", 10 s);

#[test]
fn every_message_is_recorded_in_order_and_answered_by_the_script() {
    system(|| async {
        let slot = Slot::default();
        let sent = fake(&slot, |message: &Double| Ok(2 * message.0));
        for n in 0..100 {
            assert_eq!(slot.call(Double(n)).await, Ok(2 * n));
        }
        let expected: Vec<_> = (0..100).map(Double).collect();
        assert_eq!(sent.take(), expected);
    });
}

#[test]
fn what_was_taken_is_not_recorded_any_more_and_clones_see_the_same() {
    system(|| async {
        let slot = Slot::default();
        let sent = fake(&slot, |_: &Double| Ok(0));
        let other = sent.clone();
        slot.call(Double(1)).await.unwrap();
        assert_eq!(other.take(), [Double(1)]);
        slot.call(Double(2)).await.unwrap();
        assert_eq!(sent.take(), [Double(2)]);
        assert_eq!(sent.take(), []);
    });
}

#[test]
fn a_scripted_refusal_is_what_the_caller_gets() {
    system(|| async {
        let slot = Slot::default();
        let sent = fake(&slot, |_: &Double| Err(BusError::Busy("fakes.double")));
        let answer = slot.call(Double(1)).await;
        assert_eq!(answer, Err(BusError::Busy("fakes.double")));
        assert_eq!(sent.take(), [Double(1)]);
    });
}

#[test]
fn what_is_posted_is_recorded_too() {
    system(|| async {
        let slot = Slot::default();
        let sent = fake(&slot, |_: &Double| Ok(0));
        slot.post(Double(3)).unwrap();
        assert_eq!(sent.take(), [Double(3)]);
    });
}

#[test]
fn a_real_service_can_take_the_place_of_a_fake() {
    system(|| async {
        let slot = Slot::default();
        let sent = fake(&slot, |_: &Double| Ok(0));
        slot.bind_fn(|message: Double| async move { Ok(message.0) });
        assert_eq!(slot.call(Double(5)).await, Ok(5));
        assert_eq!(sent.take(), []);
    });
}
