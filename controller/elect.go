package controller

import (
	"context"
	"errors"
	"fmt"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	componentbaseconfig "k8s.io/component-base/config"
)

// ErrLostLease is returned by RunElected when another replica may lead now.
var ErrLostLease = errors.New("lost the leader lease")

// RunElected takes part in the leader election, and runs work while this process, with
// this identity, holds the leader lease of the configuration. When ctx is done,
// RunElected waits until work has returned and only then releases the lease, so that
// no write of this leader is in flight when the next one starts. A lost lease is not
// released: another replica may hold it.
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
	var working sync.Mutex
	leading, release := context.WithCancel(context.WithoutCancel(ctx))
	defer release()
	defer context.AfterFunc(ctx, func() {
		working.Lock()
		defer working.Unlock()
		release()
	})()
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock:          lock,
		LeaseDuration: election.LeaseDuration.Duration,
		RenewDeadline: election.RenewDeadline.Duration,
		RetryPeriod:   election.RetryPeriod.Duration,
		// client-go would also release the lease after a failed renewal, while work
		// is still running.
		ReleaseOnCancel: false,
		Name:            election.ResourceName,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(held context.Context) {
				working.Lock()
				defer working.Unlock()
				held, cancel := context.WithCancel(held)
				defer cancel()
				defer context.AfterFunc(ctx, cancel)()
				work(held)
			},
			OnStoppedLeading: func() {},
		},
	})
	if err != nil {
		return fmt.Errorf("create the leader elector: %w", err)
	}
	elector.Run(leading)
	if ctx.Err() == nil {
		return ErrLostLease
	}
	// If the lease was lost just before ctx ended, work may still be returning.
	working.Lock()
	defer working.Unlock()
	return releaseLease(context.WithoutCancel(ctx), lock)
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
