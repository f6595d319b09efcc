//! A connection to the API server that is dead without a word: no FIN, no reset, no answer.

use std::time::Duration;

use podpin_testkit::{ApiServer, Network, Pod, Setup, Slice, SlicePod, wait_long};

/// client-go takes that long: 30 s of silence and 15 s for its ping.
const KNOWN_WITHIN: Duration = Duration::from_secs(45);

#[test]
fn a_server_that_vanishes_is_known_to_be_away_within_45_seconds() {
    Network::with(async |network| {
        let pod = Pod::start("pod-a").await;
        let api = ApiServer::start_on(network.listen());
        let kubeconfig = api.kubeconfig();
        let slice = Slice::of("chat", pod.address().port());
        api.put(&slice.clone().pod(SlicePod::of(&pod)));
        let setup = Setup::new().service_from("chat", super::CHAT).top(&kubeconfig.setting());
        let proxy = setup.start().await;
        api.wait_watches(1).await;
        let connected = ("podpin_discovery_connected", [("service", "chat")]);
        proxy.wait_metric(connected.0, &connected.1, 1.0).await;
        network.client_vanishes();
        let away = async || proxy.metric(connected.0, &connected.1).await == 0.0;
        wait_long(KNOWN_WITHIN, "the dead connection to be known", away).await;
        assert_eq!(proxy.get("/who").await.text(), "pod-a", "what is known stays in use");
        network.client_returns();
        api.put(&slice.pods([SlicePod::of(&pod), SlicePod::new("pod-b", [127, 0, 0, 9].into())]));
        proxy.wait_endpoints("chat", &[("pod-a", "ready"), ("pod-b", "ready")]).await;
        proxy.wait_metric(connected.0, &connected.1, 1.0).await;
    });
}
