package e2e

import (
	"encoding/json"
	"fmt"
	neturl "net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	lab "github.com/fairlead-io/fairlead/deploy/lab"
)

// TestPrometheus checks that a Prometheus in a pod scrapes all speakers and the leading
// controller, with the settings and the token that docs/metrics.md describes, and that it
// accepts the expressions of the documented alerts.
func TestPrometheus(t *testing.T) {
	addMonitoring(t)
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	leading, _ := leader(t, "")
	targets := []string{fmt.Sprintf("%q", cluster.Nodes[leading].Addr.String()+":10258")}
	for _, node := range cluster.Nodes {
		targets = append(targets, fmt.Sprintf("%q", node.Addr.String()+":10268"))
	}
	config := write("prometheus.yml", fmt.Sprintf(`global: {scrape_interval: 1s, scrape_timeout: 1s}
rule_files: [%s]
scrape_configs:
- job_name: fairlead
  scheme: https
  tls_config: {insecure_skip_verify: true}
  authorization: {credentials_file: %s}
  static_configs: [{targets: [%s]}]
`, write("alerts.yml", alertRules(t)), write("token", monitoringToken(t, "prometheus")), strings.Join(targets, ", ")))

	pod := cluster.Pods[0]
	if out, err := pod.Run(t.Context(), "/bin/sh", "-c", "promtool check config "+config); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	p, err := pod.Start("prometheus", "/bin/sh", nil, "-c",
		fmt.Sprintf("exec prometheus --config.file=%s --storage.tsdb.path=%s --web.listen-address=127.0.0.1:9090", config, filepath.Join(dir, "data")))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	query := func(expression string) (values map[string]string, err error) {
		body, err := pod.Get(t.Context(), "http://127.0.0.1:9090/api/v1/query?query="+neturl.QueryEscape(expression))
		if err != nil {
			return nil, err
		}
		var answer struct {
			Data struct {
				Result []struct {
					Metric map[string]string
					Value  [2]any
				}
			}
		}
		if err := json.Unmarshal([]byte(body), &answer); err != nil {
			return nil, fmt.Errorf("%s: %w", body, err)
		}
		values = map[string]string{}
		for _, r := range answer.Data.Result {
			values[r.Metric["instance"]] = fmt.Sprint(r.Value[1])
		}
		return values, nil
	}
	eventually(t, "Prometheus scrapes all programs", func() error {
		up, err := query(`up{job="fairlead"} == 1`)
		if err == nil && len(up) != len(targets) {
			err = fmt.Errorf("it scrapes %v, want %v", up, targets)
		}
		return err
	})
	eventually(t, "each speaker has had contact with the API server", func() error {
		ages, err := query("fairlead_speaker_api_contact_age_seconds < 120")
		if err == nil && len(ages) != len(cluster.Nodes) {
			err = fmt.Errorf("the ages are %v", ages)
		}
		return err
	})
}

// alertRules returns the alerts in docs/metrics.md as a file of rules.
func alertRules(t *testing.T) string {
	t.Helper()
	root, err := lab.Root()
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(filepath.Join(root, "docs", "metrics.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, alerts, _ := strings.Cut(string(content), "\n## Alerts\n")
	_, alerts, _ = strings.Cut(alerts, "```\n")
	alerts, _, _ = strings.Cut(alerts, "```")
	rules := "groups:\n- name: fairlead\n  rules:\n"
	count := 0
	for line := range strings.Lines(alerts) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			count++
			rules += fmt.Sprintf("  - {alert: Alert%d, expr: %q}\n", count, line)
		}
	}
	if count < 10 {
		t.Fatalf("docs/metrics.md has %d alerts", count)
	}
	return rules
}
