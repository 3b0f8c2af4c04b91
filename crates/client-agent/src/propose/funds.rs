//! Free funds of the client's wallet: wallet and escrow, less what is locked or reserved for deals.

use carferry_core::lotus::FullNode;
use carferry_core::model::AttoFil;
use carferry_core::rpc::RpcError;
use carferry_core::store::Unpublished;

/// Whether the node tells what it has reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reserved {
    /// `MarketGetReserved` says so.
    ByNode(AttoFil),
    /// The node has no such method, or the token may not call it.
    NotTold,
}

/// Where the money of the wallet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Funds {
    /// In the wallet itself.
    pub(super) wallet: AttoFil,
    /// In the market actor's escrow, locked or not.
    pub(super) escrow: AttoFil,
    /// In escrow for deals that are published.
    pub(super) locked: AttoFil,
    /// Of wallet and escrow, for deals that are not published yet.
    pub(super) reserved: Reserved,
}

impl Funds {
    /// Asks the node; for what it has reserved only where it may tell.
    ///
    /// # Errors
    ///
    /// [`RpcError`], also for an amount that cannot be read: it is not taken for nothing.
    pub(super) async fn read(node: &FullNode, wallet: &str, tells_reserved: bool) -> Result<Self, RpcError> {
        // Each before what its money moves to, so that a move in between is counted in both or in neither,
        // never against the wallet: reserved money becomes locked, and money of the wallet becomes
        // escrow.
        let reserved = if tells_reserved { node.market_reserved(wallet).await? } else { None };
        let reserved = reserved.map_or(Reserved::NotTold, Reserved::ByNode);
        let market = node.market_balance(wallet).await?;
        let in_wallet = node.wallet_balance(wallet).await?;
        Ok(Self {
            wallet: in_wallet,
            escrow: AttoFil::new(market.escrow.0),
            locked: AttoFil::new(market.locked.0),
            reserved,
        })
    }

    /// What new deals may cost together. Between a proposal and its publication, which are days with offline
    /// deals, its cost is neither locked nor gone from the wallet: the node has reserved it (lotus
    /// v1.23.3 `chain/market/fundmanager.go`, `processReservations`).
    pub(super) fn free(&self, unpublished: &Unpublished) -> AttoFil {
        let spoken_for = match self.reserved {
            // The node reserves after it has answered the proposal.
            Reserved::ByNode(reserved) => reserved.max(unpublished.lately),
            Reserved::NotTold => unpublished.all,
        };
        self.wallet.plus(self.escrow.minus(self.locked)).minus(spoken_for)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_of_deals_that_are_not_published_is_not_free() {
        let fil = |n: u128| AttoFil::new(n * 1_000_000_000_000_000_000);
        let unpublished = |all: u128, lately: u128| Unpublished { all: fil(all), lately: fil(lately) };
        // 100 FIL, deals of 60: the first moved its cost into escrow, and nothing is locked before it is
        // published.
        for (wallet, escrow, locked, reserved, recorded, free) in [
            (100, 0, 0, Reserved::ByNode(fil(0)), unpublished(0, 0), 100),
            (40, 60, 0, Reserved::ByNode(fil(60)), unpublished(60, 60), 40),
            (40, 60, 0, Reserved::NotTold, unpublished(60, 60), 40),
            // The node has answered and not reserved yet.
            (100, 0, 0, Reserved::ByNode(fil(0)), unpublished(60, 60), 40),
            // Published.
            (40, 60, 60, Reserved::ByNode(fil(0)), unpublished(0, 0), 40),
            (40, 60, 60, Reserved::NotTold, unpublished(0, 0), 40),
            // Published long ago, and tracking has not seen its number yet: the node knows better.
            (40, 60, 60, Reserved::ByNode(fil(0)), unpublished(60, 0), 40),
            // Of another program with the same wallet.
            (100, 0, 0, Reserved::ByNode(fil(70)), unpublished(60, 60), 30),
            (10, 0, 0, Reserved::ByNode(fil(70)), unpublished(0, 0), 0),
        ] {
            let funds = Funds { wallet: fil(wallet), escrow: fil(escrow), locked: fil(locked), reserved };
            assert_eq!(funds.free(&recorded), fil(free), "{funds:?} {recorded:?}");
        }
    }
}
