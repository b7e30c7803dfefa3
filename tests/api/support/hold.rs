//! Transactions that stay open while a scenario runs, to block other transactions.

use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};

use kith_store::{Error, Store, Tx};

/// Opens a transaction that stays open until its [`Sender`] is dropped.
pub fn hold_transaction(
    db: &Store,
    run: impl Fn(&Tx<'_>) -> Result<(), Error> + Send + 'static,
) -> (Sender<()>, Receiver<()>) {
    let (let_go, wait) = channel::<()>();
    let (holding, held) = channel();
    let wait = Mutex::new(wait);
    let db = db.clone();
    tokio::spawn(async move {
        let held = db.write(move |tx| {
            run(tx)?;
            // The receiver may have been dropped.
            let _ = holding.send(());
            let _ = wait.lock().expect("no thread panicked while it held the lock").recv();
            Ok::<_, Error>(())
        });
        held.await.expect("a transaction");
    });
    (let_go, held)
}
