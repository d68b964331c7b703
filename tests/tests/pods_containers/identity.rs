//! Identities from the API for pods of containerd: the scheduler's order, ids of containers that come late, several
//! containers in a pod.

use super::node::Node;
use super::{SOON, api, get};
use egress_tests::lab::{host, v4};
use egress_tests::pods::cluster::{Cluster, object};
use egress_tests::pods::uid;
use egress_tests::rules::HTTPBIN;
use egress_tests::wait_until;
use serde_json::json;

#[test]
fn pods_of_containerd_are_who_their_objects_say() {
    let mut cluster = Cluster::for_runtime(&[]).unwrap();
    let shop_only = HTTPBIN.replace(
        "  name: httpbin-ext",
        "  name: httpbin-ext\n  namespace: shop",
    );
    let shop_only = shop_only.replace("spec:", "spec:\n  exportTo: ['.']");
    cluster.lab.rules("httpbin.yaml", &shop_only).unwrap();
    let node = Node::start(&cluster.lab).unwrap();
    // The object is there before the pod, without the id of a container.
    for (number, namespace) in [(1, "shop"), (2, "blog")] {
        let mut object = object(&uid(number), namespace, "client", &json!({"app": "client"}));
        object["status"] = json!({"phase": "Pending"});
        cluster.api.put("pods", object).unwrap();
    }
    let address = format!("httpbin.org:80:{}", v4(host::HTTPBIN));
    let script =
        format!("curl -qsS --resolve {address} http://httpbin.org/get || exit 9; sleep 1000");
    let shop = node.pod(1, &["sh", "-c", &script], &[]).unwrap();
    let blog = node.pod(2, &["sh", "-c", &script], &[]).unwrap();
    let ended = wait_until("the entrypoint in blog is denied", SOON, || {
        let status = node.cri.container(&blog.container).unwrap();
        (status.state == api::EXITED).then_some(status.exit_code)
    });
    assert_eq!(ended.unwrap(), 9);
    wait_until("the entrypoint in shop has its answer", SOON, || {
        (cluster.lab.httpbin.requests().len() == 1).then_some(())
    })
    .unwrap();
    assert_eq!(get(&node, &shop, "http://httpbin.org/get"), 200);

    // The kubelet's next status has the ids; an init container and an ephemeral one are in the same pod.
    let mut debug = Node::container(super::image::POD, &[]);
    debug.metadata.as_mut().unwrap().name = "debug".to_owned();
    debug.log_path = "debug.log".to_owned();
    let debug = node
        .cri
        .start(&shop.sandbox, &node.config(1), debug)
        .unwrap();
    let mut object = object(&uid(1), "shop", "client", &json!({"app": "client"}));
    let id = |id: &str| format!("containerd://{id}");
    object["status"] = json!({
        "phase": "Running",
        "containerStatuses": [{"name": "main", "containerID": id(&shop.container)}],
        "ephemeralContainerStatuses": [{"name": "debug", "containerID": id(&debug)}],
    });
    cluster.api.put("pods", object).unwrap();
    let refused = format!("http://{}/", v4(host::BYSTANDER));
    for (container, name) in [(&shop.container, "main"), (&debug, "debug")] {
        let named = format!("container=\"{name}\"");
        wait_until("the denial names the container", SOON, || {
            let agent = cluster.lab.agent().unwrap();
            let mark = agent.mark();
            let command = ["curl", "-q", "-sS", &refused];
            assert_eq!(node.cri.exec(container, &command).unwrap().exit, 7);
            let line = agent.wait_line(mark, SOON, "a denial", |line| line.contains("denied"));
            line.unwrap().contains(&named).then_some(())
        })
        .unwrap();
    }
    node.cri.remove(&shop.sandbox).unwrap();
    node.cri.remove(&blog.sandbox).unwrap();
}
