//! Table of the methods: node, permissions, number of parameters, releases.
//!
//! What lives here: the permission table of §1.1. What does not: the methods (`full_node`, `miner_node`).

use crate::config::LotusVersion;
use crate::jwt::Permission;
use crate::jwt::Permission::{Admin, Read, Sign, Write};

/// The nodes that have a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Both,
    Full,
    Miner,
}

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Method {
    pub(crate) name: &'static str,
    side: Side,
    /// v1.5; later releases.
    permissions: [Permission; 2],
    pub(crate) params: usize,
    since: LotusVersion,
    /// Removed in v1.27.1.
    market: bool,
    /// Answers with a channel, over WebSocket only.
    pub(crate) channel: bool,
}

impl Method {
    const fn new(name: &'static str, side: Side, permissions: [Permission; 2], params: usize) -> Self {
        Self { name, side, permissions, params, since: LotusVersion::V1_5, market: false, channel: false }
    }

    const fn market(self) -> Self {
        Self { market: true, ..self }
    }

    const fn since(self, since: LotusVersion) -> Self {
        Self { since, ..self }
    }

    const fn channel(self) -> Self {
        Self { channel: true, ..self }
    }

    /// The permission that a caller needs in this release.
    pub(crate) fn permission(&self, version: LotusVersion) -> Permission {
        self.permissions[usize::from(version != LotusVersion::V1_5)]
    }

    /// The method of a name (without `Filecoin.`) on a side, if this release has it.
    pub(crate) fn find(name: &str, side: Side, version: LotusVersion) -> Option<&'static Self> {
        METHODS.iter().find(|method| {
            method.name == name
                && (method.side == Both || method.side == side)
                && version >= method.since
                && (!method.market || version.has_markets())
        })
    }
}

use Side::{Both, Full, Miner};

const METHODS: &[Method] = &[
    Method::new("Version", Both, [Read, Read], 0),
    Method::new("AuthVerify", Both, [Read, Read], 1),
    Method::new("AuthNew", Both, [Admin, Admin], 1),
    Method::new("Session", Both, [Read, Read], 0),
    Method::new("ID", Both, [Read, Read], 0),
    Method::new("NetPeers", Both, [Read, Read], 0),
    Method::new("ChainHead", Full, [Read, Read], 0),
    Method::new("ChainNotify", Full, [Read, Read], 0).channel(),
    Method::new("SyncState", Full, [Read, Read], 0),
    Method::new("WalletDefaultAddress", Full, [Write, Write], 0),
    Method::new("WalletList", Full, [Write, Write], 0),
    Method::new("WalletBalance", Full, [Read, Read], 1),
    Method::new("WalletHas", Full, [Write, Write], 1),
    Method::new("StateNetworkName", Full, [Read, Read], 0),
    Method::new("StateNetworkVersion", Full, [Read, Read], 1),
    Method::new("StateGetNetworkParams", Full, [Read, Read], 0).since(LotusVersion::V1_23),
    Method::new("StateMinerInfo", Full, [Read, Read], 2),
    Method::new("StateMinerProvingDeadline", Full, [Read, Read], 2),
    Method::new("StateMarketBalance", Full, [Read, Read], 2),
    Method::new("MarketGetReserved", Full, [Sign, Sign], 1).market(),
    Method::new("StateMarketDeals", Full, [Read, Read], 1),
    Method::new("StateMarketStorageDeal", Full, [Read, Read], 2),
    Method::new("StateVerifiedClientStatus", Full, [Read, Read], 2),
    Method::new("StateDealProviderCollateralBounds", Full, [Read, Read], 3),
    Method::new("StateLookupID", Full, [Read, Read], 2),
    Method::new("StateAccountKey", Full, [Read, Read], 2),
    Method::new("ClientStartDeal", Full, [Admin, Admin], 1).market(),
    Method::new("ClientStatelessDeal", Full, [Write, Write], 1).since(LotusVersion::V1_11).market(),
    Method::new("ClientGetDealInfo", Full, [Read, Read], 1).market(),
    Method::new("ClientListDeals", Full, [Write, Write], 0).market(),
    Method::new("ClientGetDealUpdates", Full, [Read, Write], 0).market().channel(),
    Method::new("ClientGetDealStatus", Full, [Read, Read], 1).market(),
    Method::new("ClientQueryAsk", Full, [Read, Read], 2).market(),
    Method::new("ClientCalcCommP", Full, [Read, Write], 1).market(),
    Method::new("ClientGenCar", Full, [Write, Write], 2).market(),
    Method::new("ClientDealPieceCID", Full, [Read, Read], 1).market(),
    Method::new("ClientDealSize", Full, [Read, Read], 1).market(),
    Method::new("ClientImport", Full, [Admin, Admin], 1).market(),
    Method::new("ClientRemoveImport", Full, [Admin, Admin], 1).market(),
    Method::new("ClientListImports", Full, [Write, Write], 0).market(),
    Method::new("ActorAddress", Miner, [Read, Read], 0),
    Method::new("SectorsSummary", Miner, [Read, Read], 0),
    Method::new("DealsImportData", Miner, [Write, Admin], 2).market(),
    Method::new("MarketImportDealData", Miner, [Write, Write], 2).market(),
    Method::new("DealsList", Miner, [Read, Admin], 0).market(),
    Method::new("MarketListDeals", Miner, [Read, Read], 0).market(),
    Method::new("MarketListIncompleteDeals", Miner, [Read, Read], 0).market(),
    Method::new("MarketGetDealUpdates", Miner, [Read, Read], 0).market().channel(),
    Method::new("MarketGetAsk", Miner, [Read, Read], 0).market(),
    Method::new("MarketPendingDeals", Miner, [Write, Write], 0).market(),
    Method::new("MarketPublishPendingDeals", Miner, [Admin, Admin], 0).market(),
    Method::new("MarketRetryPublishDeal", Miner, [Admin, Admin], 1).since(LotusVersion::V1_23).market(),
    Method::new("DealsConsiderOfflineStorageDeals", Miner, [Read, Admin], 0).market(),
    Method::new("DealsSetConsiderOfflineStorageDeals", Miner, [Admin, Admin], 1).market(),
];

#[cfg(test)]
mod tests {
    use super::{LotusVersion, METHODS, Method, Permission, Side};

    #[test]
    fn importing_needs_what_the_release_says() {
        let needs =
            |name, version| Method::find(name, Side::Miner, version).map(|method| method.permission(version));
        for (name, version, permission) in [
            ("DealsImportData", LotusVersion::V1_5, Some(Permission::Write)),
            ("DealsImportData", LotusVersion::V1_11, Some(Permission::Admin)),
            ("DealsImportData", LotusVersion::V1_23, Some(Permission::Admin)),
            ("DealsImportData", LotusVersion::V1_27_1, None),
            ("MarketImportDealData", LotusVersion::V1_5, Some(Permission::Write)),
            ("MarketImportDealData", LotusVersion::V1_23, Some(Permission::Write)),
        ] {
            assert_eq!(needs(name, version), permission, "{name} {version:?}");
        }
    }

    #[test]
    fn no_method_is_listed_twice() {
        for (index, method) in METHODS.iter().enumerate() {
            assert!(METHODS[..index].iter().all(|other| other.name != method.name), "{}", method.name);
        }
    }
}
