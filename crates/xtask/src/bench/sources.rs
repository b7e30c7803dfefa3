//! Sources of requests for the rows of the benchmark.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use fastrand::Rng;

use crate::load::accounts::LoadAccount;
use crate::load::http::{append_request, encode_request};
use crate::load::{Pairs, Source, Zipf};

/// Source that sends the same request repeatedly.
pub struct RepeatedRequest(pub Vec<u8>);

impl Source for RepeatedRequest {
    fn next(&self, out: &mut Vec<u8>) -> bool {
        out.extend_from_slice(&self.0);
        true
    }
}

/// Source that sends GET requests for one path. The account of each request is drawn from a Zipf distribution
/// and uses its own token.
pub struct ZipfReads {
    requests: Rc<Vec<Vec<u8>>>,
    zipf: Zipf,
    rng: RefCell<Rng>,
}

impl ZipfReads {
    pub fn of(accounts: &[LoadAccount], path: &str, seed: u64) -> Self {
        let requests = accounts.iter().map(|account| encode_request("GET", path, Some(&account.token), None));
        let mut rng = Rng::with_seed(seed);
        let zipf = Zipf::new(accounts.len(), &mut rng);
        Self { requests: Rc::new(requests.collect()), zipf, rng: RefCell::new(rng) }
    }
}

impl Source for ZipfReads {
    fn next(&self, out: &mut Vec<u8>) -> bool {
        out.extend_from_slice(&self.requests[self.zipf.draw(&mut self.rng.borrow_mut())]);
        true
    }
}

/// Source that draws each request uniformly from a list.
pub struct UniformRequests {
    requests: Rc<Vec<Vec<u8>>>,
    rng: RefCell<Rng>,
}

impl UniformRequests {
    pub fn of(requests: Rc<Vec<Vec<u8>>>, seed: u64) -> Self {
        Self { requests, rng: RefCell::new(Rng::with_seed(seed)) }
    }
}

impl Source for UniformRequests {
    fn next(&self, out: &mut Vec<u8>) -> bool {
        out.extend_from_slice(&self.requests[self.rng.borrow_mut().usize(..self.requests.len())]);
        true
    }
}

/// Source that sends partner requests between accounts that have not had one. Clones share their state, so no
/// run repeats a pair.
#[derive(Clone)]
pub struct NewRequests {
    accounts: Rc<Vec<LoadAccount>>,
    pairs: Rc<RefCell<Pairs>>,
}

impl NewRequests {
    pub fn among(accounts: Vec<LoadAccount>, seed: u64) -> Self {
        let pairs = Pairs::new(accounts.len(), &mut Rng::with_seed(seed));
        Self { accounts: Rc::new(accounts), pairs: Rc::new(RefCell::new(pairs)) }
    }
}

impl Source for NewRequests {
    fn next(&self, out: &mut Vec<u8>) -> bool {
        let Some((from, to)) = self.pairs.borrow_mut().next() else { return false };
        write_request(out, &self.accounts[from], &self.accounts[to]);
        true
    }
}

/// Appends the partner request that `from` sends to `to`.
pub fn write_request(out: &mut Vec<u8>, from: &LoadAccount, to: &LoadAccount) {
    let body = format!(r#"{{"to":{{"user_id":"{}"}}}}"#, to.id);
    append_request(out, "POST", "/api/v1/partners/requests", Some(&from.token), Some(body.as_bytes()));
}

/// Source that sends each of a list of prepared requests once. Clones share their position in the list.
#[derive(Clone)]
pub struct PreparedRequests {
    requests: Rc<Vec<Vec<u8>>>,
    next: Rc<Cell<usize>>,
    /// Number of requests that this run may still send.
    left: Rc<Cell<usize>>,
}

impl PreparedRequests {
    pub fn of(requests: Vec<Vec<u8>>) -> Self {
        Self { requests: Rc::new(requests), next: Rc::default(), left: Rc::default() }
    }

    /// Returns a source of the next `limit` requests of the list, or of all that remain if they are fewer.
    pub fn part(&self, limit: usize) -> Self {
        Self { left: Rc::new(Cell::new(limit)), ..self.clone() }
    }
}

impl Source for PreparedRequests {
    fn next(&self, out: &mut Vec<u8>) -> bool {
        if self.left.get() == 0 {
            return false;
        }
        let Some(request) = self.requests.get(self.next.get()) else { return false };
        out.extend_from_slice(request);
        self.next.set(self.next.get() + 1);
        self.left.set(self.left.get() - 1);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(source: &dyn Source) -> Vec<String> {
        std::iter::from_fn(|| {
            let mut out = Vec::new();
            source.next(&mut out).then(|| String::from_utf8(out).unwrap())
        })
        .collect()
    }

    #[test]
    fn sources_do_not_repeat_requests_between_runs() {
        let once = PreparedRequests::of(vec![b"a".to_vec(), b"b".to_vec(), b"c".to_vec()]);
        assert_eq!(sent(&once.part(2)), ["a", "b"]);
        assert_eq!(sent(&once.part(2)), ["c"]);

        let account = |i| LoadAccount { id: format!("p{i}"), token: format!("t{i}") };
        let requests = NewRequests::among((0..5).map(account).collect(), 1);
        assert!(requests.clone().next(&mut Vec::new()));
        assert_eq!(sent(&requests).len(), 9);
    }
}
