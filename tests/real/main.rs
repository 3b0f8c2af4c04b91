//! The flow against real nodes: real nodes, real markets, real chain rules; only sealing proofs are mocked.
//!
//! `.ci/real` runs it where `CARFERRY_LOTUS_ITEST` and `CARFERRY_BOOST_ITEST` name the binaries that
//! README.md tells how to build. Elsewhere these tests count as ignored.

#[cfg(test)]
mod boost;
#[cfg(test)]
mod judge;
#[cfg(test)]
mod node;
#[cfg(test)]
mod process;
#[cfg(test)]
mod setup;
#[cfg(test)]
mod wrong_cars;

#[cfg(test)]
mod lotus {
    use std::time::Duration;

    use tokio::time::{Instant, sleep};

    use crate::judge;
    use crate::setup::{Setup, number};
    use crate::wrong_cars::WrongCars;

    /// Sealing of all pieces on two processors that do other things too.
    const ALL_ACTIVE_WITHIN: Duration = Duration::from_secs(3000);
    const MENDED_WITHIN: Duration = Duration::from_secs(600);
    /// How long an agent lives between two kills.
    const LIFE_MS: std::ops::Range<u64> = 20..1500;

    /// Packs files, proposes a deal for each CAR, kills both agents again and again, lays four wrong CARs
    /// before the provider and then the right ones; at last every piece has exactly one deal, which is
    /// active on chain and in the records, whatever the nodes say of it.
    async fn every_piece_gets_one_active_deal(method: &'static str) {
        let (pieces, kills) = (number("REAL_PIECES", 150), number("REAL_KILLS", 30));
        let seed = number("REAL_SEED", fastrand::u64(0..1_000_000));
        eprintln!("real-{method}: seed {seed}; again with REAL_SEED={seed}");
        let mut rng = fastrand::Rng::with_seed(seed);
        let setup = Setup::open(method).await;
        let started = Instant::now();
        let cars = setup.pack(usize::try_from(pieces).unwrap(), &mut rng).await;
        let packed = started.elapsed();
        let wrong = WrongCars::lay(&setup, &cars, &mut rng);

        let (mut client, mut miner) = (setup.client(), setup.miner());
        for _ in 0..kills {
            sleep(Duration::from_millis(rng.u64(LIFE_MS))).await;
            let who = rng.u8(0..3);
            if who != 1 {
                client.kill9().unwrap();
                client = setup.client();
            }
            if who != 0 {
                miner.kill9().unwrap();
                miner = setup.miner();
            }
        }
        let killed = started.elapsed();
        let right_cars = cars.len() - wrong.count();
        setup.wait_for(right_cars, ALL_ACTIVE_WITHIN).await;
        let active = started.elapsed();
        wrong.are_named(&setup, MENDED_WITHIN).await;
        wrong.mend(&setup);
        let mended = Instant::now();
        setup.wait_for_imports(cars.len(), MENDED_WITHIN).await;
        let imported = mended.elapsed();
        setup.wait_for(cars.len(), ALL_ACTIVE_WITHIN).await;
        let counts = judge::check(&setup, &cars).await;
        let seconds = |duration: Duration| duration.as_secs_f64().round();
        eprintln!(
            "REAL {method} | seed {seed} | kills {kills} | {counts} | packed after {} s, last kill {} s, {right_cars} active \
             {} s, wrong CARs imported {} s after they were mended, all {} s",
            seconds(packed),
            seconds(killed),
            seconds(active),
            seconds(imported),
            seconds(started.elapsed()),
        );
        drop((client, miner));
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "needs a real Lotus, which tests/real/README.md tells how to build; then .ci/real"]
    async fn every_piece_that_goes_stateless_gets_one_active_deal() {
        every_piece_gets_one_active_deal("stateless").await;
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "needs a real Lotus, which tests/real/README.md tells how to build; then .ci/real"]
    async fn every_piece_that_the_node_follows_gets_one_active_deal() {
        every_piece_gets_one_active_deal("start").await;
    }
}
