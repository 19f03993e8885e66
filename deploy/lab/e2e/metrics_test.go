package e2e

import (
	"context"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	lab "github.com/fairlead-io/fairlead/deploy/lab"
)

// monitoring is a namespace with an account that may get metrics, and one that may not.
const monitoring = `apiVersion: v1
kind: Namespace
metadata: {name: monitoring}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: prometheus, namespace: monitoring}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: other, namespace: monitoring}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: fairlead-metrics}
rules:
- nonResourceURLs: [/metrics]
  verbs: [get]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: fairlead-metrics}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: fairlead-metrics}
subjects:
- {kind: ServiceAccount, name: prometheus, namespace: monitoring}
`

// addMonitoring creates the namespace and its accounts, until the test ends.
func addMonitoring(t *testing.T) {
	t.Helper()
	t.Cleanup(func() {
		if _, err := cluster.Kubectl(context.Background(), monitoring, "delete", "--timeout=60s", "-f", "-"); err != nil {
			t.Error(err)
		}
	})
	apply(t, monitoring)
}

func monitoringToken(t *testing.T, account string) string {
	t.Helper()
	token, err := cluster.API.CoreV1().ServiceAccounts("monitoring").CreateToken(t.Context(), account, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return token.Status.Token
}

// scrapeResult are the metrics of one program, by name.
type scrapeResult map[string]*dto.MetricFamily

// scrape requests metrics from a pod, as a Prometheus in the cluster does.
func scrape(t *testing.T, node int, port int, token string) (scrapeResult, error) {
	t.Helper()
	url := fmt.Sprintf("https://%s:%d/metrics", cluster.Nodes[node].Addr, port)
	body, err := cluster.Pods[(node+1)%len(cluster.Pods)].GetWithToken(t.Context(), url, token)
	if err != nil {
		return nil, err
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	return parser.TextToMetricFamilies(strings.NewReader(body + "\n"))
}

// value returns the sum of the metrics with all of the labels, as "name=value"; of a
// histogram, the number of observations.
func (r scrapeResult) value(name string, labels ...string) (sum float64) {
	for _, m := range r[name].GetMetric() {
		all := map[string]bool{}
		for _, l := range m.GetLabel() {
			all[l.GetName()+"="+l.GetValue()] = true
		}
		if !slices.ContainsFunc(labels, func(l string) bool { return !all[l] }) {
			sum += m.GetGauge().GetValue() + m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return sum
}

// documented returns the metrics in a section of docs/metrics.md, with their labels.
func documented(t *testing.T, section string) map[string]string {
	t.Helper()
	root, err := lab.Root()
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(filepath.Join(root, "docs", "metrics.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(content), "\n## "+section+"\n")
	table, _, _ = strings.Cut(table, "\n## ")
	all := map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `(fairlead_[a-z0-9_]+)` \\| ([^|]*)\\| (Counter|Histogram)?").FindAllStringSubmatch(table, -1) {
		var labels []string
		for label := range strings.SplitSeq(row[2], ";") {
			label, _, _ = strings.Cut(label, ":")
			labels = append(labels, strings.Trim(strings.TrimSpace(label), "`"))
		}
		slices.Sort(labels)
		kind := strings.ToUpper(row[3])
		if kind == "" {
			kind = "GAUGE"
		}
		all[row[1]] = kind + " " + strings.Join(labels, ",")
	}
	if len(all) < 5 {
		t.Fatalf("docs/metrics.md has %d metrics in the section %s", len(all), section)
	}
	return all
}

// checkDocumented compares the section with the output of some processes of one program.
// The optional metrics need not be in the output, because they count what has not occurred.
func checkDocumented(t *testing.T, section string, results []scrapeResult, optional ...string) {
	t.Helper()
	want, seen := documented(t, section), map[string]bool{}
	for _, r := range results {
		for name, family := range r {
			if !strings.HasPrefix(name, "fairlead_") {
				continue
			}
			seen[name] = true
			for _, m := range family.GetMetric() {
				var labels []string
				for _, l := range m.GetLabel() {
					labels = append(labels, l.GetName())
				}
				slices.Sort(labels)
				if got := family.GetType().String() + " " + strings.Join(labels, ","); got != want[name] {
					t.Errorf("%s is %q, and documented as %q", name, got, want[name])
				}
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if !seen[name] && !slices.Contains(optional, name) {
			t.Errorf("%s is documented, and not exported", name)
		}
	}
}

// TestScrape scrapes the speakers and the leading controller with the token of an account in
// another namespace, before and after a takeover, and compares the metrics with their
// documentation. Without a token, or with that of another account, they are refused. A
// speaker that is disconnected from the API server serves clients that it knows.
func TestScrape(t *testing.T) {
	const speakerPort, controllerPort = 10268, 10258
	routers(t)
	_, _ = routed(t, "scraped-bgp")
	service(t, "scraped")
	addr := announced(t, "scraped")
	first := owner(t, addr, anyNode)
	observed(t, first)
	addMonitoring(t)
	token := monitoringToken(t, "prometheus")
	for _, port := range []int{speakerPort, controllerPort} {
		node := 0
		if port == speakerPort {
			node = 2
		}
		for _, row := range []struct{ token, status string }{
			{"nonsense", "401"}, {monitoringToken(t, "other"), "403"},
		} {
			if _, err := scrape(t, node, port, row.token); err == nil || !strings.Contains(err.Error(), ": "+row.status+" ") {
				t.Errorf("port %d, want status %s: got %v", port, row.status, err)
			}
		}
		// The controller takes requests without a token for those of system:anonymous.
		if _, err := scrape(t, node, port, ""); err == nil || !strings.Contains(err.Error(), ": 40") {
			t.Errorf("port %d without a token: got %v", port, err)
		}
	}

	var next int
	eventually(t, "the owner exports what it announces", func() error {
		r, err := scrape(t, first, speakerPort, token)
		if err != nil {
			return err
		}
		const p = "fairlead_speaker_"
		for _, least := range []struct {
			name   string
			labels []string
			value  float64
		}{
			{p + "addresses", []string{"state=announced", "reason=Announced"}, 2},
			{p + "announced_addresses", []string{"protocol=l2"}, 1},
			{p + "announced_addresses", []string{"protocol=bgp"}, 1},
			{p + "l2_requests_answered_total", []string{"interface=eth0", "family=ipv4"}, 1},
			{p + "l2_announcements_sent_total", []string{"interface=eth0", "family=ipv4"}, 1},
			{p + "bgp_session_state", []string{"peer=bird", "state=Established"}, 1},
			{p + "bgp_sessions_established_total", []string{"peer=frr"}, 1},
			{p + "bgp_routes", []string{"peer=bird"}, 1},
			{p + "bfd_sessions", []string{"role=bgp_peer", "state=Up"}, 2},
			{p + "bfd_sessions", []string{"role=neighbor", "state=Up"}, 2},
			{p + "bfd_session_transitions_total", []string{"role=neighbor", "state=Up"}, 1},
			{p + "neighbors", []string{"state=Live"}, 2},
			{p + "data_path_checks_total", []string{"check=proxy", "outcome=ready"}, 1},
			{p + "sync_triggers_total", []string{"trigger=Service"}, 1},
			{p + "sync_duration_seconds", nil, 1},
		} {
			if got := r.value(least.name, least.labels...); got < least.value {
				return fmt.Errorf("%s%v is %g, want at least %g", least.name, least.labels, got, least.value)
			}
		}
		if age := r.value(p + "api_contact_age_seconds"); age < 0 || age > 120 {
			return fmt.Errorf("the last contact with the API server was %g s ago", age)
		}
		return nil
	})
	cluster.Speakers[first].Kill()
	next = owner(t, addr, func(node int) bool { return node != first })
	eventually(t, "the next owner exports the takeover", func() error {
		r, err := scrape(t, next, speakerPort, token)
		if err != nil {
			return err
		}
		if n := r.value("fairlead_speaker_takeover_duration_seconds", "cause=failed"); n < 1 {
			return fmt.Errorf("%g takeovers", n)
		}
		if n := r.value("fairlead_speaker_neighbors", "state=Gone"); n != 1 {
			return fmt.Errorf("%g nodes are gone", n)
		}
		return nil
	})
	if _, err := scrape(t, first, speakerPort, token); err == nil {
		t.Error("a speaker that does not run has served metrics")
	}
	// While another program listens on the port, the speaker works without it.
	var taken net.Listener
	if err := cluster.Nodes[first].Do(func() (err error) {
		taken, err = net.Listen("tcp", fmt.Sprintf(":%d", speakerPort))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	before := len(cluster.Speakers[first].ReadLog())
	startSpeaker(t, first)
	eventually(t, "the speaker has started without its metrics", func() error {
		for _, line := range []string{"listening failed, retrying", "speaker started"} {
			if log := cluster.Speakers[first].ReadLog()[before:]; !strings.Contains(log, line) {
				return fmt.Errorf("the log has no line %q", line)
			}
		}
		return nil
	})
	observed(t, next)
	_ = taken.Close()

	var speakers []scrapeResult
	eventually(t, "all speakers serve metrics", func() error {
		speakers = nil
		for node := range cluster.Nodes {
			r, err := scrape(t, node, speakerPort, token)
			if err == nil && r["fairlead_speaker_addresses"] == nil {
				err = fmt.Errorf("node %d has not synced", node+1)
			}
			if err != nil {
				return err
			}
			if node == first && r.value("fairlead_listen_failures_total") < 1 {
				t.Error("the failed attempts to listen are not counted")
			}
			speakers = append(speakers, r)
		}
		return nil
	})
	checkDocumented(t, "Speaker", speakers, "fairlead_speaker_address_conflicts_total")
	leading, _ := leader(t, "")
	r, err := scrape(t, leading, controllerPort, token)
	if err != nil {
		t.Fatal(err)
	}
	for _, least := range [][]string{
		{"fairlead_writes_total", "kind=Service", "result=success"},
		{"fairlead_sync_duration_seconds", "type=full"},
		{"fairlead_sync_duration_seconds", "type=incremental"},
		{"fairlead_time_to_address_seconds"},
		{"fairlead_time_to_announced_seconds"},
		{"workqueue_adds_total", "name=syncs"},
	} {
		if got := r.value(least[0], least[1:]...); got < 1 {
			t.Errorf("%v is %g", least, got)
		}
	}
	checkDocumented(t, "Controller", []scrapeResult{r}, "fairlead_aws_api_call_duration_seconds", "fairlead_aws_orphans")

	// A speaker without contact to the API server exports that.
	if err := cluster.DisconnectAPI(t.Context(), cluster.Nodes[2]); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { reconnect(t) })
	eventually(t, "the time without contact to the API server is exported", func() error {
		r, err := scrape(t, 2, speakerPort, token)
		if age := r.value("fairlead_speaker_api_contact_age_seconds"); err == nil && age < 40 {
			err = fmt.Errorf("it is %g s", age)
		}
		return err
	})
}
