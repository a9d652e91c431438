//! MLX's own groups: two processes of this test program over MLX's ring of sockets.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use mlxcel_mlx_bridge::distributed::{Group, GroupBackend};
use mlxcel_mlx_bridge::{Array, Device, set_default_device};

#[test]
fn a_rank_computes_with_the_others_over_a_ring() {
    // The other process runs this test too.
    if std::env::var_os("MLX_RANK").is_some() {
        return compute();
    }
    let hosts = tempfile();
    std::fs::write(&hosts, format!("[[\"127.0.0.1:{}\"], [\"127.0.0.1:{}\"]]", free_port(), free_port()))
        .expect("a file");
    let rank = |rank: &str| {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args(["--exact", "a_rank_computes_with_the_others_over_a_ring", "--nocapture"]);
        command.env("MLX_RANK", rank).env("MLX_HOSTFILE", &hosts).stdout(Stdio::null());
        command.spawn().expect("this program starts")
    };
    let mut ranks = [rank("0"), rank("1")];
    let deadline = Instant::now() + Duration::from_secs(60);
    for process in &mut ranks {
        while process.try_wait().expect("its state").is_none() {
            assert!(Instant::now() < deadline, "a rank hangs");
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(process.wait().expect("its state").success(), "a rank failed");
    }
    std::fs::remove_file(hosts).expect("it is there");
}

fn compute() {
    set_default_device(Device::CPU).expect("there is a CPU");
    let group = Group::join(GroupBackend::Ring).expect("the other rank is there");
    let rank = group.rank().expect("a rank");
    assert_eq!(group.size().expect("a size"), 2);
    let mine = Array::from_slice(&[1.0 + rank as f32, 10.0], &[2]).expect("an array");
    let values = |x: Array| x.to_vec::<f32>().expect("values");
    assert_eq!(values(group.all_sum(&mine).expect("a node")), [3.0, 20.0]);
    assert_eq!(values(group.all_max(&mine).expect("a node")), [2.0, 10.0]);
    assert_eq!(values(group.all_gather(&mine).expect("a node")), [1.0, 10.0, 2.0, 10.0]);
}

#[test]
fn a_group_that_the_environment_does_not_describe_is_a_typed_error() {
    if std::env::var_os("MLX_RANK").is_none() {
        Group::join(GroupBackend::Ring).map(|_| ()).expect_err("there is no group");
    }
}

#[test]
fn a_cpu_build_has_a_ring_and_says_that_it_has_no_nccl() {
    assert_eq!(GroupBackend::Ring.is_available(), Ok(true));
    #[cfg(not(feature = "cuda"))]
    assert_eq!(GroupBackend::Nccl.is_available(), Ok(false));
}

fn tempfile() -> std::path::PathBuf {
    std::env::temp_dir().join(format!("mlxcel-ring-{}.json", std::process::id()))
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}
