package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-io/fairlead/allocator"
	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// renumberRequest is how long an address stays beside the one that has replaced it.
type renumberRequest struct {
	hold  bool // until somebody says so
	at    time.Time
	after time.Duration // since it was replaced; 0: until at
}

// parseRenumber reads the annotation; nil if there is none.
func parseRenumber(svc *corev1.Service) (*renumberRequest, error) {
	text := svc.Annotations[v1alpha1.AnnotationRenumber]
	if text == "" {
		return nil, nil
	}
	if text == "hold" {
		return &renumberRequest{hold: true}, nil
	}
	if d, err := time.ParseDuration(text); err == nil && d > 0 {
		return &renumberRequest{after: d}, nil
	}
	if at, err := time.Parse(time.RFC3339, text); err == nil {
		return &renumberRequest{at: at}, nil
	}
	return nil, fmt.Errorf(`annotation %s: %q is neither "hold", nor a duration like "48h", nor a time like "2030-01-31T18:00:00Z"`, v1alpha1.AnnotationRenumber, truncateText(text))
}

// releaseTime is when an address that was replaced at a time is released; never if
// nobody has said.
func (r *renumberRequest) releaseTime(since time.Time) (at time.Time, ends bool) {
	if r.after > 0 {
		return since.Add(r.after), true
	}
	return r.at, !r.hold
}

// replacedAt is when the address was replaced: now, if there is no record.
func replacedAt(svc *corev1.Service, addr netip.Addr, now time.Time) time.Time {
	value, _ := config.ReadRecords(svc.Annotations[v1alpha1.AnnotationLeaving]).Of(addr)
	if since, err := time.Parse(time.RFC3339, value); err == nil {
		return since
	}
	return now.UTC().Truncate(time.Second)
}

// expiredAddresses are the addresses whose time beside their replacements is over, if
// these are announced, and which are not asked for again. For those whose time
// will come, there is a wake-up.
func (d *decision) expiredAddresses(svc *serviceState, r *renumberRequest, asked *allocator.Request) (over []netip.Addr) {
	if r == nil {
		return nil
	}
	for _, h := range asked.Have {
		again := slices.Contains(asked.Addrs, h.Addr) || asked.Pinned && slices.Contains(asked.Pools, h.Pool)
		if !h.Leaving || again {
			continue
		}
		at, ends := r.releaseTime(replacedAt(svc.Service, h.Addr, d.Now))
		switch {
		case !ends:
		case d.Now.Before(at):
			if d.requeueAt.IsZero() || at.Before(d.requeueAt) {
				d.requeueAt = at
			}
		case d.replacementAnnounced(h.Addr, asked.Have):
			over = append(over, h.Addr)
		}
	}
	return over
}

// replacementAnnounced reports whether an address beside the one that is leaving is announced.
func (d *decision) replacementAnnounced(leaving netip.Addr, have []allocator.Have) bool {
	return slices.ContainsFunc(have, func(h allocator.Have) bool {
		return !h.Leaving && h.Addr.Is4() == leaving.Is4() &&
			d.reports.announcedCondition([]allocator.Held{{Addr: h.Addr}}).Status == metav1.ConditionTrue
	})
}

// overdueAddresses are the addresses that should be released by now, and are not.
func (d *decision) overdueAddresses(svc *serviceState, held []allocator.Held) (addrs []netip.Addr) {
	for _, h := range held {
		if !h.Leaving {
			continue
		}
		r, err := parseRenumber(svc.Service)
		if err != nil || r == nil {
			continue
		}
		if at, ends := r.releaseTime(replacedAt(svc.Service, h.Addr, d.Now)); ends && !d.Now.Before(at) {
			addrs = append(addrs, h.Addr)
		}
	}
	return addrs
}

// retentionEnd says how long an address stays that is leaving.
func (d *decision) retentionEnd(svc *serviceState, addr netip.Addr) string {
	r, err := parseRenumber(svc.Service)
	if err != nil || r == nil {
		return "until the request can be understood"
	}
	at, ends := r.releaseTime(replacedAt(svc.Service, addr, d.Now))
	switch {
	case !ends:
		return "until annotation " + v1alpha1.AnnotationRenumber + " is removed"
	case d.Now.Before(at):
		return "until " + at.UTC().Format(time.RFC3339)
	}
	return "until that is announced"
}
