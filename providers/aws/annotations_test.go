package aws

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// docsTable returns the rows of the table with this first header cell in a page of
// the docs, without the header.
func docsTable(t *testing.T, page, header string) (rows [][]string) {
	t.Helper()
	content, err := os.ReadFile("../../docs/" + page)
	if err != nil {
		t.Fatal(err)
	}
	_, table, found := strings.Cut("\n"+string(content), "\n| "+header+" |")
	if !found {
		t.Fatalf("docs/%s: no table with the header %q", page, header)
	}
	for _, line := range strings.Split(table, "\n")[2:] {
		if !strings.HasPrefix(line, "|") {
			break
		}
		cells := strings.Split(strings.Trim(line, "| "), " | ")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		rows = append(rows, cells)
	}
	return rows
}

// statusNames are the names in docs/aws.md, in the order of the rows there.
var statusNames = []string{annotationServed: "served", annotationIgnored: "ignored", annotationRefused: "refused"}

// TestAnnotationTable compares the table of annotations in the docs, the one in the
// code, and the annotations that are read.
func TestAnnotationTable(t *testing.T) {
	documented := map[string][]string{}
	var order []int
	for _, row := range docsTable(t, "aws.md", "annotation") {
		name := strings.Trim(row[0], "`")
		if len(row) != 4 || documented[name] != nil {
			t.Errorf("docs/aws.md: %q: must have four cells, and one row", row)
			continue
		}
		documented[name], order = row, append(order, slices.Index(statusNames, row[1]))
	}
	for _, k := range knownAnnotations {
		row := documented[k.name]
		delete(documented, k.name)
		switch {
		case row == nil:
			t.Errorf("%s: not in docs/aws.md", k.name)
		case row[1] != statusNames[k.status]:
			t.Errorf("%s: %s in docs/aws.md, %s in the code", k.name, row[1], statusNames[k.status])
		case k.status != annotationServed && row[3] != k.note:
			t.Errorf("%s: docs/aws.md has %q, the code has %q", k.name, row[3], k.note)
		case k.status == annotationRefused && strings.Trim(row[2], "`") != k.unset:
			t.Errorf("%s: docs/aws.md accepts %q, the code %q", k.name, row[2], k.unset)
		}
	}
	for name, want := range map[string]string{"S/load-balancer-source-ranges": "served", "S/actions.PROTOCOL-PORT": "refused"} {
		if row := documented[name]; row == nil || row[1] != want {
			t.Errorf("docs/aws.md: %s: got %v", name, row)
		}
		delete(documented, name)
	}
	if len(documented) > 0 {
		t.Errorf("docs/aws.md has annotations that the code lacks: %v", documented)
	}
	if !slices.IsSorted(order) {
		t.Error("docs/aws.md: served annotations must be first, ignored ones next")
	}

	// Annotations with a variable suffix are read only if they are set.
	s := newService("web", 80)
	annotate("listener-attributes.TCP-80", "a=b", "target-group-attributes.80", "a=b")(s)
	var o serviceOptions
	r := &annotationReader{annotations: s.Annotations, known: map[string]bool{}}
	r.readOptions(s, &o)
	read := map[*knownAnnotation]bool{}
	for name := range r.known {
		k := findAnnotation(strings.TrimPrefix(name, prefix))
		if k == nil || k.status != annotationServed {
			t.Errorf("%s is read, but not in the table as served", name)
			continue
		}
		read[k] = true
	}
	for i, k := range knownAnnotations {
		if k.status == annotationServed && !read[&knownAnnotations[i]] {
			t.Errorf("%s is in the table as served, but not read", k.name)
		}
	}
}

// TestNoAnnotationIsSilent checks that each annotation that is not served is refused
// or named in the condition.
func TestNoAnnotationIsSilent(t *testing.T) {
	for _, k := range knownAnnotations {
		if k.status == annotationServed {
			continue
		}
		t.Run(k.name, func(t *testing.T) {
			s := newService("web", 80)
			annotate(k.name, "x")(s)
			plan, refusal := planStack(s, adminSettings{NodePorts: [2]int32{30000, 32767}})
			if k.status == annotationRefused {
				want := "annotation " + prefix + k.name + ": not supported: " + k.note
				if refusal == nil || *refusal != *newRefusal(v1alpha1.InvalidRequest, "%s", want) {
					t.Errorf("got %v", refusal)
				}
				return
			}
			if want := []string{"annotation " + prefix + k.name + ": " + k.note}; refusal != nil || !slices.Equal(plan.Ignored, want) {
				t.Errorf("got %q and %v", plan.Ignored, refusal)
			}
		})
	}
}

// TestIgnoredAnnotations checks that the report names annotations without an effect,
// with the same text in each sync, until they are removed.
func TestIgnoredAnnotations(t *testing.T) {
	eachAccount(t, func(t *testing.T, a *account) {
		c, s := a.newProvider(t), newService("web", 80)
		annotate("backend-protocol", "http", "access-log-emit-interval", "5")(s)
		a.ensureService(t, c, s)
		message := c.Report(s).Message
		want := "; ignored: annotation " + prefix + "access-log-emit-interval: only Classic Load Balancers have an interval; " +
			"a Network Load Balancer writes its logs every five minutes, annotation " + prefix +
			"backend-protocol: http means tcp for a Network Load Balancer, which does not parse requests"
		if !strings.HasSuffix(message, want) || !c.Report(s).Ready {
			t.Errorf("the message is %q", message)
		}
		c.invalidateSync(s.UID)
		a.ensureService(t, c, s)
		if again := c.Report(s).Message; again != message {
			t.Errorf("the message changed to %q", again)
		}
		s.Annotations = nil
		a.ensureService(t, c, s)
		if message := c.Report(s).Message; strings.Contains(message, "ignored") {
			t.Errorf("the message is still %q", message)
		}
	})
}

// TestMTUDiscoveryWithoutOwnGroup checks that the annotation is reported where it does not
// have an effect.
func TestMTUDiscoveryWithoutOwnGroup(t *testing.T) {
	for _, other := range [][2]string{{"security-groups", "sg-1"}, {"disable-nlb-sg", "true"}} {
		s := newService("web", 80)
		annotate("enable-icmp-for-path-mtu-discovery", "off", other[0], other[1])(s)
		plan, refusal := planStack(s, adminSettings{})
		if refusal != nil || len(plan.Ignored) != 1 || !strings.Contains(plan.Ignored[0], "enable-icmp-for-path-mtu-discovery: ") {
			t.Errorf("%v: ignored %q, refusal %v", other, plan.Ignored, refusal)
		}
	}
}

// TestMTUDiscovery checks that the rule of path MTU discovery follows its annotation.
func TestMTUDiscovery(t *testing.T) {
	eachAccount(t, func(t *testing.T, a *account) {
		c, s := a.newProvider(t), newService("web", 80)
		for _, value := range []string{"off", "on", "off"} {
			annotate("enable-icmp-for-path-mtu-discovery", value)(s)
			a.ensureService(t, c, s)
			if admitted := strings.Contains(a.world(t), "rule icmp 3-4 from 0.0.0.0/0"); admitted != (value == "on") {
				t.Errorf("%s: admitted is %t", value, admitted)
			}
		}
	})
}

// TestPrivateLink checks whether security groups apply to AWS PrivateLink. moto does
// not have the setting, so that only the fake is used.
func TestPrivateLink(t *testing.T) {
	a := fakeAccount(t)
	c, s := a.newProvider(t), newService("web", 80)
	enforced := func() string {
		t.Helper()
		a.ensureService(t, c, s)
		b := a.balancers(t)[0]
		if b.EnforceSecurityGroupInboundRulesOnPrivateLinkTraffic == nil {
			return "default"
		}
		return *b.EnforceSecurityGroupInboundRulesOnPrivateLinkTraffic
	}
	const name = "inbound-sg-rules-on-private-link-traffic"
	annotate(name, "off")(s)
	if got := enforced(); got != "off" {
		t.Errorf("after creation: %s", got)
	}
	a.reset()
	c.invalidateSync(s.UID)
	if got := enforced(); got != "off" || len(a.writes()) > 0 {
		t.Errorf("after a comparison: %s, with %v", got, a.writes())
	}
	// The setting stays without the annotation, also when the groups change.
	delete(s.Annotations, prefix+name)
	annotate("security-groups", a.nodeGroup)(s)
	if got := enforced(); got != "off" {
		t.Errorf("without the annotation: %s", got)
	}
	annotate(name, "on")(s)
	if got := enforced(); got != "on" {
		t.Errorf("with on: %s", got)
	}
	deleteService(t, a, c, s)
}
