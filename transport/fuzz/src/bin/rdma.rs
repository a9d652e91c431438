//! What an RDMA peer says: of its queue pair when two ends meet, and in packets when they have. On Linux only.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    #[cfg(target_os = "linux")]
    {
        use mlxcel_transport_rdma::wire::{ADDRESS_BYTES, QueuePairAddress};
        if let Some(Ok(address)) = bytes.first_chunk::<ADDRESS_BYTES>().map(QueuePairAddress::parse) {
            assert_eq!(QueuePairAddress::parse(&address.to_bytes()), Ok(address));
            assert!(address.buffers > 0 && (1..=5).contains(&address.mtu));
        }
        mlxcel_transport_rdma::fuzzing::packets(bytes);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = bytes;
});
