package aws

import (
	"testing"
	"time"
)

func TestNextMode(t *testing.T) {
	now := time.Unix(1000, 0)
	web, other := stack{Scheme: "internal", Tags: map[string]string{"a": "b"}}, stack{Scheme: "internal"}
	nodes := []nodeTarget{{"node-0", "i-0"}}
	last := func(change func(*lastSync)) *lastSync {
		l := &lastSync{desired: web, targets: nodes, due: now.Add(time.Minute)}
		change(l)
		return l
	}
	for _, row := range []struct {
		name    string
		last    *lastSync
		desired stack
		targets []nodeTarget
		want    syncMode
	}{
		{"none before", nil, web, nodes, syncStack},
		{"after a deletion that waits", &lastSync{deletions: 1}, web, nodes, syncStack},
		{"of targets alone", last(func(l *lastSync) { l.desired = stack{Backend: true} }), web, nodes, syncStack},
		{"nothing has changed", last(func(*lastSync) {}), web, nodes, syncPending},
		{"another stack", last(func(*lastSync) {}), other, nodes, syncStack},
		{"other targets", last(func(*lastSync) {}), web, nil, syncStack},
		{"incomplete", last(func(l *lastSync) { l.incomplete = true }), web, nodes, syncStack},
		{"due", last(func(l *lastSync) { l.due = now }), web, nodes, syncDrift},
		{"due with another stack", last(func(l *lastSync) { l.due = now }), other, nodes, syncStack},
		{"due for the sixth time", last(func(l *lastSync) { l.due, l.syncs = now, attributesEvery-1 }), web, nodes, syncAttributes},
		{"for the sixth time, but not due", last(func(l *lastSync) { l.syncs = attributesEvery - 1 }), web, nodes, syncPending},
		{"for the sixth time with another stack", last(func(l *lastSync) { l.syncs = attributesEvery - 1 }), other, nodes, syncAttributes},
	} {
		if got := nextMode(row.last, row.desired, row.targets, now); got != row.want {
			t.Errorf("%s: got %d, want %d", row.name, got, row.want)
		}
	}
}
