package speaker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// speakerReads answers reads of Speakers and counts them.
type speakerReads struct {
	mu     sync.Mutex
	at     map[string][]time.Time // by node
	answer func(ctx context.Context, node string) (*v1alpha1.Speaker, error)
}

func (s *speakerReads) get(ctx context.Context, node string, _ metav1.GetOptions) (*v1alpha1.Speaker, error) {
	s.mu.Lock()
	s.at[node] = append(s.at[node], time.Now())
	answer := s.answer
	s.mu.Unlock()
	return answer(ctx, node)
}

func (s *speakerReads) setAnswer(answer func(ctx context.Context, node string) (*v1alpha1.Speaker, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = answer
}

func (s *speakerReads) total() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, at := range s.at {
		n += len(at)
	}
	return n
}

// announcesAddress answers with a report about one address.
func announcesAddress(version string) func(context.Context, string) (*v1alpha1.Speaker, error) {
	return func(_ context.Context, node string) (*v1alpha1.Speaker, error) {
		return &v1alpha1.Speaker{
			ObjectMeta: metav1.ObjectMeta{Name: node, ResourceVersion: version},
			Status: v1alpha1.SpeakerStatus{Announcing: []v1alpha1.Announcement{
				{Interfaces: []string{"eth0"}, Addresses: []string{"192.0.2.7"}},
			}},
		}, nil
	}
}

// runClaimReports runs a reader until the test ends, and counts its changes.
func runClaimReports(t *testing.T, reads *speakerReads) (c *claimReports, changes func() int) {
	changed := make(chan struct{}, 1000)
	reads.at = map[string][]time.Time{}
	c = newClaimReports(reads.get, slog.New(slog.DiscardHandler), func() { changed <- struct{}{} })
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); c.Run(ctx) }()
	t.Cleanup(func() { stop(); <-done })
	return c, func() int { return len(changed) }
}

// TestClaimFlood checks that hosts that claim addresses all the time, with the MACs of many
// nodes, cause a bounded number of reads: 5 per second in all, and one per second and node.
func TestClaimFlood(t *testing.T) {
	for _, row := range []struct {
		nodes, want int // reads in a minute
		steady      bool
		answer      func(context.Context, string) (*v1alpha1.Speaker, error)
	}{
		{100, 5 * 60, false, announcesAddress("1")},
		{3, 3 * 60, false, announcesAddress("1")},
		{3, 3 * 60, true, func(context.Context, string) (*v1alpha1.Speaker, error) { return nil, errors.New("refused") }},
		// A claim that goes on: at once, again when the node must have reported, and then
		// every ten seconds.
		{1, 1 + 1 + 5, true, announcesAddress("1")},
	} {
		synctest.Test(t, func(t *testing.T) {
			reads := &speakerReads{answer: row.answer}
			c, _ := runClaimReports(t, reads)
			start := time.Now()
			claimed := start
			for time.Since(start) < time.Minute-50*time.Millisecond {
				needed := map[string]time.Time{}
				for i := range row.nodes {
					needed[fmt.Sprint("node-", i)] = claimed
				}
				c.Set(needed, time.Now())
				time.Sleep(70 * time.Millisecond)
				if !row.steady {
					claimed = time.Now()
				}
			}
			if n := reads.total(); n != row.want {
				t.Errorf("%d nodes: %d reads, want %d", row.nodes, n, row.want)
			}
			reads.checkIntervals(t)
		})
	}
	// Claims that end and begin again all the time cause no more reads.
	synctest.Test(t, func(t *testing.T) {
		reads := &speakerReads{answer: announcesAddress("1")}
		c, _ := runClaimReports(t, reads)
		for start := time.Now(); time.Since(start) < time.Minute; time.Sleep(70 * time.Millisecond) {
			c.Set(map[string]time.Time{"n": time.Now()}, time.Now())
			time.Sleep(70 * time.Millisecond)
			c.Set(nil, time.Now())
		}
		if n := reads.total(); n < 2 {
			t.Errorf("%d reads", n)
		}
		reads.checkIntervals(t)
	})
}

func (s *speakerReads) checkIntervals(t *testing.T) {
	t.Helper()
	for node, at := range s.at {
		for i := 1; i < len(at); i++ {
			if since := at[i].Sub(at[i-1]); since < nodeReadInterval {
				t.Errorf("%s was read again after %s", node, since)
			}
		}
	}
}

// TestClaimReports checks what a plan gets: nothing before the first answer, unless it takes
// too long, and then the last answer.
func TestClaimReports(t *testing.T) {
	addr := netip.MustParseAddr("192.0.2.7")
	missing := func(_ context.Context, node string) (*v1alpha1.Speaker, error) {
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "speakers"}, node)
	}
	hangs := func(ctx context.Context, _ string) (*v1alpha1.Speaker, error) { <-ctx.Done(); return nil, ctx.Err() }
	synctest.Test(t, func(t *testing.T) {
		reads := &speakerReads{answer: hangs}
		c, changes := runClaimReports(t, reads)
		state := func() string {
			reports, next := c.Reports(time.Now())
			groups, read := reports["n"]
			switch {
			case len(reports) > 1:
				t.Errorf("reports of %d nodes", len(reports))
				return ""
			case !read:
				return "unread, " + next.String()
			case len(groups) == 1 && groups[0].Addrs.Contains(addr):
				return "announces"
			}
			return "announces nothing"
		}
		set := func(claimed time.Time) { c.Set(map[string]time.Time{"n": claimed}, time.Now()) }
		start := time.Now()
		for i, step := range []struct {
			after   time.Duration // since the start
			before  func()
			want    string
			changes int // so far
		}{
			{0, func() { set(start) }, "unread, 5s", 0},
			{4 * time.Second, func() { set(start) }, "unread, 1s", 0},
			{5 * time.Second, func() {}, "announces nothing", 0},
			{5 * time.Second, func() { reads.setAnswer(announcesAddress("1")) }, "announces nothing", 0},
			{8 * time.Second, func() {}, "announces", 1},
			{17 * time.Second, func() { reads.setAnswer(hangs) }, "announces", 1},
			{time.Hour, func() { reads.setAnswer(announcesAddress("2")) }, "announces", 1},
			{time.Hour + 4*time.Second, func() { reads.setAnswer(missing) }, "announces", 2},
			{time.Hour + 15*time.Second, func() {}, "announces nothing", 3},
			{time.Hour + 26*time.Second, func() { c.Set(nil, time.Now()) }, "announces nothing", 3},
			{time.Hour + 40*time.Second, func() { c.Set(nil, time.Now()) }, "unread, 0s", 3},
		} {
			time.Sleep(step.after - time.Since(start))
			step.before()
			synctest.Wait()
			if got := state(); got != step.want || changes() != step.changes {
				t.Errorf("step %d: %s after %d changes, want %s after %d", i, got, changes(), step.want, step.changes)
			}
		}
	})
	// A report that may be older than the announcement is read again as soon as it cannot be.
	synctest.Test(t, func(t *testing.T) {
		reads := &speakerReads{answer: missing}
		c, _ := runClaimReports(t, reads)
		start := time.Now()
		c.Set(map[string]time.Time{"n": start}, start)
		time.Sleep(500 * time.Millisecond)
		reads.setAnswer(announcesAddress("1"))
		time.Sleep(600 * time.Millisecond)
		if reports, _ := c.Reports(time.Now()); len(reports["n"]) != 1 || len(reads.at["n"]) != 2 {
			t.Errorf("reports %v after reads at %v", maps.Collect(maps.All(reports)), reads.at)
		}
	})
}
