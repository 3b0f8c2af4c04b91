//! (d) The network between agents and MongoDB, and between agents and Lotus: cut, slow, half-open, refused.

use std::time::Duration;

use harness::faults::{Link, Proxy};
use harness::{Members, Options};
use tokio::time::sleep;

use crate::fault_cluster::{BY_EVENTS, FaultCluster, FaultConfig};
use crate::iterations::{SeededRng, iterations};

const LINKS: [Link; 4] = [Link::Refuse, Link::Blackhole, Link::Drop, Link::Slow];

fn port_of(url: &str) -> u16 {
    url.split(':').nth(2).and_then(|rest| rest.split('/').next()?.parse().ok()).unwrap()
}

/// Puts every way to Lotus behind a proxy.
async fn lotus_behind_proxies(cluster: &mut FaultCluster) -> Vec<Proxy> {
    let mut lotus = Vec::new();
    let urls = cluster.miner_urls.iter_mut().map(|(_, url)| url).chain([&mut cluster.full_node]);
    for url in urls {
        let port = port_of(url);
        let proxy = tokio::task::spawn_blocking(move || Proxy::start(port)).await.unwrap().unwrap();
        *url = url.replace(&port.to_string(), &proxy.port().to_string());
        lotus.push(proxy);
    }
    lotus
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_cut_from_everything_is_survived() {
    let seeded = SeededRng::of("network-long");
    let options = Options { behind_proxies: true, ..Options::default() };
    let mut cluster = FaultCluster::open(FaultConfig {
        members: Members::Three,
        options,
        import_setting: &[BY_EVENTS],
        ..FaultConfig::default()
    })
    .await;
    let lotus = lotus_behind_proxies(&mut cluster).await;
    let agents = (cluster.client("client", None), cluster.miner(None));
    cluster.add_cars(6).await;
    cluster.settled(Duration::from_secs(60)).await;
    cluster.add_cars(12).await;
    // Some are published, some imported, some under way.
    sleep(Duration::from_millis(1500)).await;
    let cut = Duration::from_secs(u64::try_from(iterations(6, 3600)).unwrap());
    let set = |link| cluster.set.proxies().iter().chain(&lotus).for_each(|proxy| proxy.set(link));
    set(Link::Blackhole);
    sleep(cut).await;
    set(Link::Pass);
    // The longest pause of either agent is a minute.
    cluster.settled_and_watched(Duration::from_secs(180)).await;
    let counts = cluster.check().await;
    seeded.tell(1, &format!("cut for {} s, {counts:?}", cut.as_secs()));
    drop(agents);
}

#[tokio::test(flavor = "multi_thread")]
async fn deals_pass_a_network_that_fails_in_every_way() {
    let mut seeded = SeededRng::of("network");
    let options = Options { behind_proxies: true, ..Options::default() };
    let mut cluster = FaultCluster::open(FaultConfig {
        members: Members::Three,
        options,
        import_setting: &[BY_EVENTS],
        ..FaultConfig::default()
    })
    .await;
    let lotus = lotus_behind_proxies(&mut cluster).await;
    let agents = (cluster.client("client", None), cluster.miner(None), cluster.miner(None));
    let count = iterations(8, 80);
    for round in 0..count {
        // Prepared while the network is well; the agents are what is on trial.
        cluster.add_cars(4).await;
        let link = *LINKS.get(round % 4).unwrap();
        let (to_mongodb, to_lotus) = match round / 4 % 3 {
            0 => (true, false),
            1 => (false, true),
            _ => (true, true),
        };
        let set = |link: Link, rng: &mut fastrand::Rng| {
            if to_mongodb {
                cluster.set.proxies().iter().for_each(|proxy| proxy.set(link));
            }
            if to_lotus {
                lotus
                    .iter()
                    .filter(|_| link == Link::Pass || rng.u8(0..3) > 0)
                    .for_each(|proxy| proxy.set(link));
            }
        };
        sleep(Duration::from_millis(seeded.rng.u64(0..500))).await;
        set(link, &mut seeded.rng);
        sleep(Duration::from_millis(seeded.rng.u64(500..4000))).await;
        set(Link::Pass, &mut seeded.rng);
        // Cuts in bursts, as a flapping switch makes them.
        for _ in 0..seeded.rng.usize(0..6) {
            sleep(Duration::from_millis(seeded.rng.u64(0..200))).await;
            cluster.set.proxies().iter().chain(&lotus).for_each(Proxy::cut);
        }
        sleep(Duration::from_secs(1)).await;
    }
    cluster.settled_and_watched(Duration::from_secs(180)).await;
    let counts = cluster.check().await;
    seeded.tell(count, &format!("{counts:?}"));
    drop(agents);
}
