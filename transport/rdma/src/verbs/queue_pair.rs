//! Reliable connections: bringing them up, and posting work.

use std::ffi::c_int;
use std::io;
use std::ptr::NonNull;
use std::sync::Arc;

use super::abi::{self, AhAttr, Qp, QpAttr, QpCap, QpInitAttr, RecvWr, SendWr, Sge};
use super::{CompletionQueue, Port, checked};
use crate::wire::QueuePairAddress;

/// One end of a reliable connection.
pub(crate) struct QueuePair {
    qp: NonNull<Qp>,
    completions: CompletionQueue,
    port: Arc<Port>,
}

// SAFETY: verbs may be called from any thread.
unsafe impl Send for QueuePair {}
// SAFETY: as above.
unsafe impl Sync for QueuePair {}

/// Local bytes of a work request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Local {
    pub(crate) start: u64,
    pub(crate) len: u32,
    pub(crate) key: u32,
}

/// A peer's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Remote {
    pub(crate) start: u64,
    pub(crate) key: u32,
}

/// What a work request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Sends the local bytes, into a buffer that the peer has posted.
    Send,
    /// Writes the local bytes there, and says this number when they are there, if there is one.
    Write(Remote, Option<u32>),
    /// Reads the local bytes from there.
    Read(Remote),
}

/// A work request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SendRequest {
    pub(crate) work: Work,
    pub(crate) local: Local,
    /// Whether it is completed under this number; else with the next that is.
    pub(crate) signalled: Option<u64>,
}

impl QueuePair {
    /// A queue pair that is not connected, for so many requests of each kind.
    pub(crate) fn new(
        port: &Arc<Port>,
        completions: CompletionQueue,
        sends: u32,
        receives: u32,
    ) -> io::Result<Self> {
        let device = &port.device;
        let cap = QpCap {
            max_send_wr: sends,
            max_recv_wr: receives,
            max_send_sge: 1,
            max_recv_sge: 1,
            max_inline_data: 0,
        };
        let queue = completions.cq.as_ptr();
        let mut init = QpInitAttr {
            qp_context: std::ptr::null_mut(),
            send_cq: queue,
            recv_cq: queue,
            srq: std::ptr::null_mut(),
            cap,
            qp_type: abi::QPT_RC,
            sq_sig_all: 0,
        };
        // SAFETY: protection domain and queue are open and of one device.
        let qp = unsafe { (device.verbs.create_qp)(device.pd.as_ptr(), &raw mut init) };
        let qp = NonNull::new(qp).ok_or_else(io::Error::last_os_error)?;
        let made = Self { qp, completions, port: Arc::clone(port) };
        let mut attributes = QpAttr {
            qp_state: abi::QPS_INIT,
            port_num: port.number,
            qp_access_flags: (abi::ACCESS_LOCAL_WRITE | abi::ACCESS_REMOTE_WRITE | abi::ACCESS_REMOTE_READ)
                as u32,
            ..QpAttr::default()
        };
        made.modify(
            &mut attributes,
            abi::QP_STATE | abi::QP_PKEY_INDEX | abi::QP_PORT | abi::QP_ACCESS_FLAGS,
        )?;
        Ok(made)
    }

    /// Its number, which the peer sends to.
    pub(crate) fn number(&self) -> u32 {
        // SAFETY: open as long as this lives.
        unsafe { self.qp.as_ref() }.qp_num
    }

    /// Where its completions are.
    pub(crate) const fn completions(&self) -> &CompletionQueue {
        &self.completions
    }

    /// Connects it to the peer's, from `ours`: as this end has introduced itself.
    pub(crate) fn connect(&self, ours: &QueuePairAddress, theirs: &QueuePairAddress) -> io::Result<()> {
        self.ready_to_receive(ours, theirs)?;
        let mut attributes = QpAttr {
            qp_state: abi::QPS_RTS,
            timeout: TIMEOUT,
            retry_cnt: RETRIES,
            rnr_retry: RETRIES,
            sq_psn: ours.packet,
            max_rd_atomic: ours.reads.min(theirs.reads),
            ..QpAttr::default()
        };
        let mask = abi::QP_STATE
            | abi::QP_TIMEOUT
            | abi::QP_RETRY_CNT
            | abi::QP_RNR_RETRY
            | abi::QP_SQ_PSN
            | abi::QP_MAX_QP_RD_ATOMIC;
        self.modify(&mut attributes, mask)
    }

    fn ready_to_receive(&self, ours: &QueuePairAddress, theirs: &QueuePairAddress) -> io::Result<()> {
        let (high, low) = theirs.gid.split_at(8);
        let half = |bytes: &[u8]| u64::from_ne_bytes(*bytes.first_chunk().expect("half of sixteen bytes"));
        let address = AhAttr {
            dgid: [half(high), half(low)],
            sgid_index: self.port.gid.index,
            hop_limit: HOPS,
            dlid: theirs.lid,
            is_global: u8::from(self.port.ethernet || ours.lid == 0 || theirs.lid == 0),
            port_num: self.port.number,
            ..AhAttr::default()
        };
        let mut attributes = QpAttr {
            qp_state: abi::QPS_RTR,
            path_mtu: u32::from(ours.mtu.min(theirs.mtu)),
            dest_qp_num: theirs.number,
            rq_psn: theirs.packet,
            max_dest_rd_atomic: ours.reads.min(theirs.reads),
            min_rnr_timer: NOT_READY_TIMER,
            ah_attr: address,
            ..QpAttr::default()
        };
        let mask = abi::QP_STATE
            | abi::QP_AV
            | abi::QP_PATH_MTU
            | abi::QP_DEST_QPN
            | abi::QP_RQ_PSN
            | abi::QP_MAX_DEST_RD_ATOMIC
            | abi::QP_MIN_RNR_TIMER;
        self.modify(&mut attributes, mask)
    }

    fn modify(&self, attributes: &mut QpAttr, mask: c_int) -> io::Result<()> {
        // SAFETY: the queue pair is open, and the mask names fields that were filled in.
        checked(unsafe { (self.port.device.verbs.modify_qp)(self.qp.as_ptr(), attributes, mask) })
    }

    /// Posts requests, which are done in this order.
    ///
    /// # Safety
    /// The local bytes stay valid and registered until a request behind them is completed, or this is dropped; those
    /// of reads are not borrowed by anybody meanwhile.
    pub(crate) unsafe fn post(&self, requests: &[SendRequest]) -> io::Result<()> {
        let mut pieces: Vec<Sge> = requests.iter().map(|request| request.local.into()).collect();
        let mut list: Vec<SendWr> =
            requests.iter().zip(&mut pieces).map(|(request, piece)| request.encode(piece)).collect();
        for at in 1..list.len() {
            let next = &raw mut list[at];
            list[at - 1].next = next;
        }
        let Some(first) = list.first_mut() else { return Ok(()) };
        let mut refused = std::ptr::null_mut();
        // SAFETY: the list and its pieces live until this returns, which is all the driver needs them for; the bytes as
        // this function requires.
        let code = unsafe {
            let context = self.qp.as_ref().context;
            let post = (*context).ops.post_send.ok_or(io::ErrorKind::Unsupported)?;
            post(self.qp.as_ptr(), first, &raw mut refused)
        };
        checked(code)
    }

    /// Posts a buffer for what the peer sends, completed under this number.
    ///
    /// # Safety
    /// The buffer stays valid and registered, and is not borrowed by anybody, until it is completed or this is dropped.
    pub(crate) unsafe fn post_receive(&self, buffer: Local, id: u64) -> io::Result<()> {
        let mut piece = Sge::from(buffer);
        let mut request =
            RecvWr { wr_id: id, next: std::ptr::null_mut(), sg_list: &raw mut piece, num_sge: 1 };
        let mut refused = std::ptr::null_mut();
        // SAFETY: as in `post`.
        let code = unsafe {
            let context = self.qp.as_ref().context;
            let post = (*context).ops.post_recv.ok_or(io::ErrorKind::Unsupported)?;
            post(self.qp.as_ptr(), &raw mut request, &raw mut refused)
        };
        checked(code)
    }
}

impl Drop for QueuePair {
    fn drop(&mut self) {
        // SAFETY: made once, and destroyed once. When this returns the device touches none of its memory any more.
        unsafe { (self.port.device.verbs.destroy_qp)(self.qp.as_ptr()) };
    }
}

impl From<Local> for Sge {
    fn from(local: Local) -> Self {
        Self { addr: local.start, length: local.len, lkey: local.key }
    }
}

impl SendRequest {
    fn encode(&self, piece: &mut Sge) -> SendWr {
        let (opcode, remote, immediate) = match self.work {
            Work::Send => (abi::WR_SEND, Remote { start: 0, key: 0 }, 0),
            Work::Write(remote, None) => (abi::WR_RDMA_WRITE, remote, 0),
            Work::Write(remote, Some(number)) => (abi::WR_RDMA_WRITE_WITH_IMM, remote, number),
            Work::Read(remote) => (abi::WR_RDMA_READ, remote, 0),
        };
        SendWr {
            wr_id: self.signalled.unwrap_or_default(),
            next: std::ptr::null_mut(),
            sg_list: piece,
            num_sge: 1,
            opcode,
            send_flags: if self.signalled.is_some() { abi::SEND_SIGNALED } else { 0 },
            imm_data: immediate.to_be(),
            remote_addr: remote.start,
            rkey: remote.key,
            others: [0; 9],
        }
    }
}

/// How long a packet may stay unacknowledged before it is sent again: 4.096 us times 2 to this, 67 ms.
const TIMEOUT: u8 = 14;
/// How often it is sent again before the peer counts as lost, after half a second. Seven would not be one more: drivers
/// take that for without end.
const RETRIES: u8 = 6;
/// How long a peer without a posted buffer asks to be left alone: 0.64 ms, as verbs encode it. Credit keeps that from
/// happening.
const NOT_READY_TIMER: u8 = 12;
/// Routers that a packet may pass.
const HOPS: u8 = 64;
