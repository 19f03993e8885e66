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

// RunElected runs work while this process, known as identity, holds the lease
// that the configuration names. When ctx ends, work is let finish, and only then
// is the lease released, so that the next leader never meets a write in flight.
// A lease that was lost is not released: it may be another one's by now.
func RunElected(ctx context.Context, client kubernetes.Interface, election componentbaseconfig.LeaderElectionConfiguration, identity string, work func(context.Context)) error {
	if !election.LeaderElect {
		work(ctx)
		return nil
	}
	lock, err := resourcelock.New(election.ResourceLock, election.ResourceNamespace, election.ResourceName,
		client.CoreV1(), client.CoordinationV1(), resourcelock.ResourceLockConfig{Identity: identity})
	if err != nil {
		return fmt.Errorf("leader lease %s/%s: %w", election.ResourceNamespace, election.ResourceName, err)
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
		// client-go would release also after a renewal that failed, while work
		// still runs.
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
		return fmt.Errorf("leader election: %w", err)
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

// releaseLease gives the lease up, if it is still ours.
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
