//! An intent for tests: a deal of 2032 bytes with f01000 that is not confirmed yet.

use carferry_core::model::IntentDoc;

/// An intent as the tests change it.
pub(super) fn intent_of_tests() -> IntentDoc {
    IntentDoc {
        id: "p#1".into(),
        filecid: "bafykroot".into(),
        miner: "f01000".into(),
        wallet: "f1w".into(),
        piececid: "bagapiece".into(),
        dealsizebytes: 2032,
        carpath: "/out/a.car".into(),
        priceattofil: "0".into(),
        duration: 518_400,
        startepoch: 1000,
        providercollateral: "5".into(),
        fastretrieval: true,
        owner: "box".into(),
        ..IntentDoc::default()
    }
}
