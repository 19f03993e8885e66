package speaker

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/flowcontrol"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/speaker/plan"
)

const (
	// nodeReadInterval is the shortest time between two reads of the Speaker of one node.
	nodeReadInterval = time.Second

	// reportReadsPerSecond bounds the reads of Speakers of all nodes together: hosts on the
	// LAN can claim addresses with the MACs of any nodes.
	reportReadsPerSecond = 5

	// reportRefreshInterval is how old a report may be. It also bounds how long a report
	// is kept that is not needed any more.
	reportRefreshInterval = 10 * time.Second

	// reportDelay is how long a node may take to report an address that it announces. A
	// report that was read earlier after the begin of a claim is read again.
	reportDelay = time.Second

	// reportReadTimeout bounds one read, and maxReportWait the wait for the first report of
	// a node. Claims of the node are judged without a report then.
	reportReadTimeout = 3 * time.Second
	maxReportWait     = 5 * time.Second
)

// claimReports reads the Speakers of the nodes that claim addresses of this one, so that
// speakers need not watch the Speakers of all nodes. All methods may be called
// concurrently.
type claimReports struct {
	get     func(ctx context.Context, node string, options metav1.GetOptions) (*v1alpha1.Speaker, error)
	log     *slog.Logger
	changed func() // is called after a report has been read that differs from the last one
	needed  chan struct{}

	mu     sync.Mutex
	byNode map[string]*claimReport
}

// claimReport is the report of one node.
type claimReport struct {
	needed     bool
	since      time.Time // when it was needed first
	claimed    time.Time // when the newest claim of the node began
	attempted  time.Time // when the last read began
	read       bool      // the API server has answered
	readAt     time.Time // when the read began that was answered last
	version    string    // resourceVersion of the Speaker; "" if it does not exist
	announcing []plan.AnnouncedGroup
}

func newClaimReports(
	get func(context.Context, string, metav1.GetOptions) (*v1alpha1.Speaker, error), log *slog.Logger, changed func(),
) *claimReports {
	return &claimReports{get: get, log: log, changed: changed, needed: make(chan struct{}, 1), byNode: map[string]*claimReport{}}
}

// Set replaces the nodes whose reports are needed, each with the time when its newest claim
// began.
func (c *claimReports) Set(needed map[string]time.Time, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for node, r := range c.byNode {
		_, r.needed = needed[node]
		// The others stay as long as the rate of reads depends on them.
		if !r.needed && now.Sub(r.attempted) >= reportRefreshInterval {
			delete(c.byNode, node)
		}
	}
	for node, claimed := range needed {
		r := c.byNode[node]
		if r == nil {
			r = &claimReport{since: now}
			c.byNode[node] = r
		}
		r.needed, r.claimed = true, claimed
	}
	notify(c.needed)
}

// Reports returns what the nodes announce on interfaces, for LocalFacts.Reports, and the
// time until a report that has not been read is to be replaced by an empty one; 0 if there
// is none.
func (c *claimReports) Reports(now time.Time) (reports map[string][]plan.AnnouncedGroup, next time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	reports = make(map[string][]plan.AnnouncedGroup, len(c.byNode))
	for node, r := range c.byNode {
		left := maxReportWait - now.Sub(r.since)
		switch {
		case r.read || left <= 0:
			reports[node] = r.announcing
		case r.needed && (next == 0 || left < next):
			next = left
		}
	}
	return reports, next
}

// Run reads the reports that are needed, until ctx ends.
func (c *claimReports) Run(ctx context.Context) {
	limiter := flowcontrol.NewTokenBucketRateLimiter(reportReadsPerSecond, 1)
	for ctx.Err() == nil {
		node, wait := c.nextRead(time.Now())
		if node == "" {
			select {
			case <-ctx.Done():
			case <-c.needed:
			case <-time.After(wait):
			}
			continue
		}
		if limiter.Wait(ctx) == nil {
			c.readReport(ctx, node)
		}
	}
}

// nextRead returns the node whose report is to be read now, the one with the oldest
// report first, or the time until the next one is.
func (c *claimReports) nextRead(now time.Time) (node string, wait time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	wait = noResync
	for name, r := range c.byNode {
		if !r.needed {
			continue
		}
		if left := r.dueAt().Sub(now); left > 0 {
			wait = min(wait, left)
		} else if node == "" || r.attempted.Before(c.byNode[node].attempted) {
			node = name
		}
	}
	return node, wait
}

// dueAt returns when the report is to be read next.
func (r *claimReport) dueAt() time.Time {
	switch answered := r.read && !r.readAt.Before(r.attempted); {
	case r.attempted.IsZero():
		return time.Time{}
	case !answered:
		return r.attempted.Add(nodeReadInterval)
	case r.readAt.Before(r.claimed.Add(reportDelay)): // it may be older than the announcement
		return r.readAt.Add(nodeReadInterval)
	}
	return r.readAt.Add(reportRefreshInterval)
}

// beginRead records the read of the report, and returns false if it is not needed any more.
func (c *claimReports) beginRead(node string, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.byNode[node]
	if r == nil || !r.needed {
		return false
	}
	r.attempted = now
	return true
}

// readReport reads the Speaker of the node. After an error, the last report counts.
func (c *claimReports) readReport(ctx context.Context, node string) {
	ctx, cancel := context.WithTimeout(ctx, reportReadTimeout)
	defer cancel()
	began := time.Now()
	if !c.beginRead(node, began) {
		return
	}
	speaker, err := c.get(ctx, node, metav1.GetOptions{})
	version, announcing := "", []plan.AnnouncedGroup(nil)
	switch {
	case err == nil:
		version, announcing = speaker.ResourceVersion, plan.AnnouncedGroups(speaker)
	case apierrors.IsNotFound(err):
	default:
		c.log.Debug("report of a node that claims an address not read", "error", fmt.Errorf("get Speaker %s: %w", node, err))
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.byNode[node] // not deleted: it was attempted a moment ago
	if !r.read || r.version != version {
		defer c.changed()
	}
	r.read, r.readAt, r.version, r.announcing = true, began, version, announcing
}
