//! A Ceph cluster on loopback: a monitor, storage daemons that keep three copies, and an S3 gateway.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::bucket::Endpoint;
use super::s3::{environment, free_port};
use super::said;

/// Programs from Debian's packages ceph-mon, ceph-osd and radosgw.
const PROGRAMS: [&str; 6] = ["ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "radosgw"];

pub(crate) struct Ceph {
    directory: TempDir,
    port: u16,
    /// The gateway, the storage daemons and the monitor, in the order in which they are stopped.
    daemons: Vec<Child>,
}

impl Ceph {
    /// Starts a cluster with three storage daemons. If Ceph is not installed, reports that the test is skipped and
    /// returns `None`.
    pub(crate) fn start() -> Option<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let is_installed = |name: &&&str| std::env::split_paths(&path).any(|folder| folder.join(name).is_file());
        if let Some(missing) = PROGRAMS.iter().find(|name| !is_installed(name)) {
            let problem = format!("{missing} is missing: run make setup-heavy");
            assert!(std::env::var_os("VIDINDEX_TEST_REQUIRE").is_none(), "{problem}");
            eprintln!("skipped: {problem}");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let mut ceph = Self { directory, port: free_port(), daemons: Vec::new() };
        ceph.write_configuration();
        let root = ceph.root().to_owned();
        for (name, more) in [("mon.", &[][..]), ("client.admin", &["osd"]), ("client.rgw", &["osd"])] {
            let create = (name == "mon.").then_some("--create-keyring");
            let may = ["mon"].iter().chain(more).flat_map(|service| ["--cap", service, "allow *"]);
            ceph.tool("ceph-authtool", create.into_iter().chain(["keyring", "--gen-key", "-n", name]).chain(may));
        }
        let fsid = fs::read_to_string(root.join("fsid")).unwrap();
        let address = fs::read_to_string(root.join("mon_host")).unwrap();
        ceph.tool("monmaptool", ["--create", "--addv", "a", &address, "--fsid", &fsid, "monmap"]);
        ceph.tool("ceph-mon", ["--mkfs", "-i", "a", "--monmap", "monmap", "--keyring", "keyring"]);
        ceph.daemon("ceph-mon", &["-i", "a"]);
        // A client that connects before the monitor listens may wait for its default timeout of five minutes.
        let status = || ceph.command("ceph").args(["--connect-timeout", "3", "mon", "stat"]).output().unwrap().status;
        let begun = Instant::now();
        while !status().success() {
            assert!(begun.elapsed() < Duration::from_secs(60), "the monitor did not start: {}", root.display());
        }
        for number in ["0", "1", "2"] {
            let uuid = fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap();
            let id = ceph.tool("ceph", ["osd", "new", uuid.trim()]);
            assert_eq!(id, number);
            fs::create_dir_all(root.join("osd").join(&id)).unwrap();
            ceph.tool("ceph-osd", ["-i", &id, "--mkfs", "--osd-uuid", uuid.trim()]);
            let host = format!("host=h{id}");
            ceph.tool("ceph", ["osd", "crush", "add", &format!("osd.{id}"), "1.0", &host, "root=default"]);
            ceph.daemon("ceph-osd", &["-i", &id]);
        }
        ceph.daemon("radosgw", &["-n", "client.rgw"]);
        let begun = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", ceph.port)).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(120), "the gateway did not start: {}", root.display());
            std::thread::sleep(Duration::from_millis(200));
        }
        let [(_, key), (_, secret), ..] = environment();
        let keys = [format!("--access-key={key}"), format!("--secret-key={secret}")];
        let user = ["user", "create", "--uid=test", "--display-name=test", "-n", "client.rgw"];
        ceph.tool("radosgw-admin", user.into_iter().chain(keys.iter().map(String::as_str)));
        Some(ceph)
    }

    /// Kills a storage daemon. The copies that it keeps are lost.
    pub(crate) fn lose_storage(&mut self) {
        let storage = &mut self.daemons[1];
        storage.kill().unwrap();
        storage.wait().unwrap();
    }

    /// The state of the storage daemons, as Ceph reports it.
    pub(crate) fn health(&self) -> String {
        self.tool("ceph", ["osd", "stat"])
    }

    fn root(&self) -> &Path {
        self.directory.path()
    }

    fn write_configuration(&self) {
        let root = self.root();
        for folder in ["mon", "osd", "rgw", "log"] {
            fs::create_dir(root.join(folder)).unwrap();
        }
        let fsid = fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap().trim().to_owned();
        let monitor = format!("[v2:127.0.0.1:{},v1:127.0.0.1:{}]", free_port(), free_port());
        let (port, root_name) = (self.port, root.display());
        let text = format!(
            "[global]
fsid = {fsid}
mon_initial_members = a
mon_host = {monitor}
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
ms_bind_ipv6 = false
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
ms_mon_client_mode = crc
ms_client_mode = crc
osd_pool_default_size = 3
osd_pool_default_min_size = 2
osd_pool_default_pg_num = 4
osd_pool_default_pgp_num = 4
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
mon_max_pg_per_osd = 2000
osd_objectstore = memstore
memstore_device_bytes = 1073741824
osd_heartbeat_grace = 10
mon_osd_down_out_interval = 600
run_dir = {root_name}
crash_dir = {root_name}
admin_socket = {root_name}/$name.asok
log_file = {root_name}/log/$name.log
pid_file = {root_name}/$name.pid
keyring = {root_name}/keyring
mon_data = {root_name}/mon/$id
osd_data = {root_name}/osd/$id
[client.rgw]
rgw_data = {root_name}/rgw
rgw_frontends = beast endpoint=127.0.0.1:{port}
rgw_run_sync_thread = false
rgw_enable_gc_threads = false
rgw_enable_lc_threads = false
"
        );
        fs::write(root.join("ceph.conf"), text).unwrap();
        fs::write(root.join("fsid"), fsid).unwrap();
        fs::write(root.join("mon_host"), monitor).unwrap();
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.root()).env("CEPH_CONF", self.root().join("ceph.conf")).stdin(Stdio::null());
        command
    }

    /// Runs a command and returns its output. Panics if it fails.
    fn tool<'a>(&self, program: &str, args: impl IntoIterator<Item = &'a str>) -> String {
        let output = self.command(program).args(args).output().unwrap();
        assert!(output.status.success(), "{program}: {}", said(&output));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    fn daemon(&mut self, program: &str, args: &[&str]) {
        let mut command = self.command(program);
        let daemon = command.arg("-f").args(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        self.daemons.insert(0, daemon);
    }
}

impl Endpoint for Ceph {
    fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Drop for Ceph {
    fn drop(&mut self) {
        for daemon in &mut self.daemons {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}
