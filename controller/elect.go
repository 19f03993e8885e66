package controller

import (
	"context"
	"fmt"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	componentbaseconfig "k8s.io/component-base/config"
	"k8s.io/klog/v2"
)

// The times of the leader election: another process of the same Pod acquires the lease at
// once, and one of another Pod within LeaseDuration and two RetryPeriods after the last
// renewal. The leader renews it twice within RenewDeadline.
const (
	LeaseDuration = 6 * time.Second
	RenewDeadline = 4 * time.Second
	RetryPeriod   = 500 * time.Millisecond
)

// ValidateElection returns an error if a leader could still write when the next one starts.
func ValidateElection(e componentbaseconfig.LeaderElectionConfiguration) error {
	if e.LeaderElect && e.LeaseDuration.Duration < e.RenewDeadline.Duration+writeTimeout {
		return fmt.Errorf("--leader-elect-lease-duration: %v must be at least %v longer than --leader-elect-renew-deadline (%v)",
			e.LeaseDuration.Duration, writeTimeout, e.RenewDeadline.Duration)
	}
	return nil
}

// RunElected takes part in the leader election until ctx is done, and runs work while this
// process holds the leader lease of the configuration. If the lease is lost, it waits until
// work has returned, and takes part again.
//
// Two processes with the same identity must not run at the same time: they would lead
// both. The identity is that of a Pod, whose containers the kubelet does not start before
// the previous one has ended.
//
// When ctx is done, RunElected waits until work has returned and only then releases the
// lease, so that no write of this leader is in flight when the next one starts. A lost
// lease is not released: another replica may hold it.
func RunElected(
	ctx context.Context, client kubernetes.Interface, election componentbaseconfig.LeaderElectionConfiguration,
	identity string, work func(context.Context),
) error {
	if !election.LeaderElect {
		work(ctx)
		return nil
	}
	lock, err := resourcelock.New(election.ResourceLock, election.ResourceNamespace, election.ResourceName,
		client.CoreV1(), client.CoordinationV1(), resourcelock.ResourceLockConfig{Identity: identity})
	if err != nil {
		return fmt.Errorf("create the lock of leader lease %s/%s: %w", election.ResourceNamespace, election.ResourceName, err)
	}
	for {
		if err := leadOnce(ctx, lock, election, work); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return releaseLease(context.WithoutCancel(ctx), lock)
		}
		klog.FromContext(ctx).Info("lost the leader lease", "identity", identity)
	}
}

// leadOnce waits for the lease, and runs work until the lease is lost or ctx is done. It
// returns after work has returned.
func leadOnce(
	ctx context.Context, lock resourcelock.Interface, election componentbaseconfig.LeaderElectionConfiguration, work func(context.Context),
) error {
	interval := election.RenewDeadline.Duration / 2
	acquired := make(chan context.Context, 1)
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock:          &renewalLimiter{Interface: lock, interval: interval - election.RetryPeriod.Duration},
		LeaseDuration: election.LeaseDuration.Duration,
		RenewDeadline: election.RenewDeadline.Duration - interval, // after a renewal that was omitted
		RetryPeriod:   election.RetryPeriod.Duration,
		// client-go would also release the lease after a failed renewal, while work
		// is still running.
		ReleaseOnCancel: false,
		Name:            election.ResourceName,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(held context.Context) { acquired <- held }, // in its own goroutine
			OnStoppedLeading: func() {},
		},
	})
	if err != nil {
		return fmt.Errorf("create the leader elector: %w", err)
	}
	// The lease is renewed until work has returned.
	elect, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var electing sync.WaitGroup
	electing.Go(func() {
		elector.Run(elect)
		stop()
	})
	select {
	case held := <-acquired:
		held, cancel := context.WithCancel(held)
		defer context.AfterFunc(ctx, cancel)()
		work(held)
		cancel()
	case <-elect.Done(): // lost before work began
	case <-ctx.Done():
	}
	stop()
	electing.Wait()
	return nil
}

// renewalLimiter omits the renewals of a lease that was renewed within the interval:
// leaderelection renews as often as it tries to acquire.
type renewalLimiter struct {
	resourcelock.Interface
	interval time.Duration
	renewed  time.Time // zero if the last write failed
}

// Create creates the lease (resourcelock.Interface).
func (l *renewalLimiter) Create(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	return l.note(time.Now(), l.Interface.Create(ctx, record))
}

// Update acquires or renews the lease (resourcelock.Interface).
func (l *renewalLimiter) Update(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	if time.Since(l.renewed) <= l.interval {
		return nil
	}
	return l.note(time.Now(), l.Interface.Update(ctx, record))
}

// note records the result of a write: the lease may have been renewed when it began.
func (l *renewalLimiter) note(began time.Time, err error) error {
	l.renewed = time.Time{}
	if err == nil {
		l.renewed = began
	}
	return err
}

// releaseLease releases the lease if this process still holds it.
func releaseLease(ctx context.Context, lock resourcelock.Interface) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	record, _, err := lock.Get(ctx)
	if apierrors.IsNotFound(err) || err == nil && record.HolderIdentity != lock.Identity() {
		return nil
	}
	if err != nil {
		return fmt.Errorf("release the leader lease: %w", err)
	}
	record.HolderIdentity, record.LeaseDurationSeconds = "", 1
	if err := lock.Update(ctx, *record); err != nil {
		return fmt.Errorf("release the leader lease: %w", err)
	}
	return nil
}
