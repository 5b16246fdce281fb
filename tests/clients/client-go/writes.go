package main

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/retry"
)

func typedClient(ctx context.Context, c *cluster) error {
	maps := c.typed.CoreV1().ConfigMaps(namespace)
	made, err := maps.Create(ctx, configMap("typed", nil), metav1.CreateOptions{FieldManager: "checks"})
	if err != nil {
		return err
	}
	made.Data["a"] = "2"
	updated, err := maps.Update(ctx, made, metav1.UpdateOptions{})
	if err != nil {
		return err
	}
	read, err := maps.Get(ctx, "typed", metav1.GetOptions{})
	if err != nil {
		return err
	}
	_, again := maps.Create(ctx, configMap("typed", nil), metav1.CreateOptions{})
	dry, err := maps.Create(ctx, configMap("dry", nil), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	_, absent := maps.Get(ctx, "dry", metav1.GetOptions{})
	return all(err, equal("data", read.Data["a"], "2"), equal("the revision", read.ResourceVersion, updated.ResourceVersion),
		equal("a dry object", dry.Name, "dry"), is("get", absent, apierrors.IsNotFound),
		is("a second create", again, apierrors.IsAlreadyExists), maps.Delete(ctx, "typed", metav1.DeleteOptions{}))
}

func otherEncodings(ctx context.Context, c *cluster) error {
	for _, encoding := range []string{"application/vnd.kubernetes.protobuf", "application/cbor"} {
		config := rest.CopyConfig(c.config)
		config.ContentType = encoding
		config.AcceptContentTypes = encoding + ",application/json"
		if encoding == "application/cbor" {
			// A client falls back to JSON if the server does not accept CBOR, which no server does by default.
			config.ContentType = "application/json"
		}
		client, err := kubernetes.NewForConfig(config)
		if err != nil {
			return err
		}
		pod := clock()
		pod.Name = "encoded"
		if _, err := client.CoreV1().Pods(namespace).Create(ctx, pod, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("%s: %w", encoding, err)
		}
		list, err := client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=clock"})
		if err != nil {
			return fmt.Errorf("%s: %w", encoding, err)
		}
		now := int64(0)
		err = client.CoreV1().Pods(namespace).Delete(ctx, "encoded", metav1.DeleteOptions{GracePeriodSeconds: &now})
		if err := all(err, equal("pods", len(list.Items), 2)); err != nil {
			return fmt.Errorf("%s: %w", encoding, err)
		}
	}
	return nil
}

func dynamicClient(ctx context.Context, c *cluster) error {
	services := c.dynamic.Resource(virtualServices).Namespace(namespace)
	made, err := services.Create(ctx, virtualService("dynamic"), metav1.CreateOptions{})
	if err != nil {
		return err
	}
	made.Object["status"] = map[string]any{"observedGeneration": int64(1)}
	if _, err := services.UpdateStatus(ctx, made, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("status: %w", err)
	}
	applied := virtualService("dynamic")
	applied.SetLabels(map[string]string{"applied": "yes"})
	read, err := services.Apply(ctx, "dynamic", applied, metav1.ApplyOptions{FieldManager: "checks", Force: true})
	if err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	list, err := services.List(ctx, metav1.ListOptions{LabelSelector: "applied=yes"})
	if err != nil {
		return err
	}
	unknown := virtualService("unknown")
	unknown.Object["spec"].(map[string]any)["nothing"] = true
	_, strict := services.Create(ctx, unknown, metav1.CreateOptions{FieldValidation: metav1.FieldValidationStrict})
	return all(equal("the kind", read.GetKind(), "VirtualService"), equal("objects", len(list.Items), 1),
		is("an unknown field", strict, apierrors.IsBadRequest), services.Delete(ctx, "dynamic", metav1.DeleteOptions{}))
}

func serverSideApply(ctx context.Context, c *cluster) error {
	maps := c.typed.CoreV1().ConfigMaps(namespace)
	apply := func(manager, value string, force bool) (*corev1.ConfigMap, error) {
		config := applycorev1.ConfigMap("applied", namespace).WithData(map[string]string{"colour": value})
		return maps.Apply(ctx, config, metav1.ApplyOptions{FieldManager: manager, Force: force})
	}
	if _, err := apply("one", "blue", false); err != nil {
		return err
	}
	_, conflict := apply("two", "red", false)
	forced, err := apply("two", "red", true)
	if err != nil {
		return err
	}
	extracted, err := applycorev1.ExtractConfigMap(forced, "two")
	if err != nil {
		return err
	}
	left, err := apply("one", "red", false)
	if err != nil {
		return err
	}
	return all(is("another's field", conflict, apierrors.IsConflict), has(fmt.Sprint(conflict), "one"),
		equal("the extracted field", extracted.Data["colour"], "red"), equal("managers", len(left.ManagedFields), 2))
}

func patches(ctx context.Context, c *cluster) error {
	deployments := c.typed.AppsV1().Deployments(namespace)
	if _, err := deployments.Create(ctx, web("patched", 0), metav1.CreateOptions{}); err != nil {
		return err
	}
	for kind, patch := range map[types.PatchType]string{
		types.StrategicMergePatchType: `{"spec":{"template":{"spec":{"containers":[{"name":"web","env":[{"name":"A","value":"a"}]}]}}}}`,
		types.MergePatchType:          `{"metadata":{"annotations":{"merged":"yes"}}}`,
		types.JSONPatchType:           `[{"op":"add","path":"/metadata/labels","value":{"json":"yes"}}]`,
	} {
		if _, err := deployments.Patch(ctx, "patched", kind, []byte(patch), metav1.PatchOptions{}); err != nil {
			return fmt.Errorf("%s: %w", kind, err)
		}
	}
	read, err := deployments.Get(ctx, "patched", metav1.GetOptions{})
	if err != nil {
		return err
	}
	container := read.Spec.Template.Spec.Containers[0]
	return all(equal("the image", container.Image, "isthmus/testapp"), equal("variables", len(container.Env), 1),
		equal("an annotation", read.Annotations["merged"], "yes"), equal("a label", read.Labels["json"], "yes"),
		deployments.Delete(ctx, "patched", metav1.DeleteOptions{}))
}

func conflicts(ctx context.Context, c *cluster) error {
	maps := c.typed.CoreV1().ConfigMaps(namespace)
	stale, err := maps.Create(ctx, configMap("contended", nil), metav1.CreateOptions{})
	if err != nil {
		return err
	}
	if _, err := maps.Patch(ctx, "contended", types.MergePatchType, []byte(`{"data":{"b":"2"}}`), metav1.PatchOptions{}); err != nil {
		return err
	}
	stale.Data["c"] = "3"
	_, conflict := maps.Update(ctx, stale, metav1.UpdateOptions{})
	err = retry.RetryOnConflict(retry.DefaultRetry, func() error {
		fresh, err := maps.Get(ctx, "contended", metav1.GetOptions{})
		if err != nil {
			return err
		}
		fresh.Data["c"] = "3"
		_, err = maps.Update(ctx, fresh, metav1.UpdateOptions{})
		return err
	})
	return all(is("a stale update", conflict, apierrors.IsConflict), err, maps.Delete(ctx, "contended", metav1.DeleteOptions{}))
}

func deletions(ctx context.Context, c *cluster) error {
	maps := c.typed.CoreV1().ConfigMaps(namespace)
	held := configMap("held", map[string]string{"set": "deleted"})
	held.Finalizers = []string{"example.com/hold"}
	made, err := maps.Create(ctx, held, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	if _, err := maps.Create(ctx, configMap("free", map[string]string{"set": "deleted"}), metav1.CreateOptions{}); err != nil {
		return err
	}
	other := types.UID("other")
	wrong := maps.Delete(ctx, "free", metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &other}})
	if err := maps.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "set=deleted"}); err != nil {
		return err
	}
	_, absent := maps.Get(ctx, "free", metav1.GetOptions{})
	ending, err := maps.Get(ctx, "held", metav1.GetOptions{})
	if err != nil {
		return err
	}
	if ending.DeletionTimestamp == nil || ending.UID != made.UID {
		return fmt.Errorf("a held object is not ending: %v", ending.ObjectMeta)
	}
	ending.Finalizers = nil
	if _, err := maps.Update(ctx, ending, metav1.UpdateOptions{}); err != nil {
		return err
	}
	_, gone := maps.Get(ctx, "held", metav1.GetOptions{})
	return all(is("a wrong UID", wrong, apierrors.IsConflict), is("the free object", absent, apierrors.IsNotFound),
		is("the released object", gone, apierrors.IsNotFound))
}

func statuses(ctx context.Context, c *cluster) error {
	services := c.typed.CoreV1().Services(namespace)
	service := object[*corev1.Service](`{"metadata": {"name": "status"}, "spec": {"type": "ClusterIP", "ports": [{"port": 80}]}}`)
	made, err := services.Create(ctx, service, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	made.Status.Conditions = []metav1.Condition{{Type: "Checked", Status: metav1.ConditionTrue, Reason: "Checks", LastTransitionTime: metav1.Now()}}
	made.Spec.Ports[0].Port = 81
	updated, err := services.UpdateStatus(ctx, made, metav1.UpdateOptions{})
	if err != nil {
		return err
	}
	patched, err := services.Patch(ctx, "status", types.MergePatchType, []byte(`{"status":{"conditions":null}}`), metav1.PatchOptions{}, "status")
	if err != nil {
		return err
	}
	return all(equal("conditions", len(updated.Status.Conditions), 1), equal("the port", updated.Spec.Ports[0].Port, 80),
		equal("conditions after the patch", len(patched.Status.Conditions), 0), services.Delete(ctx, "status", metav1.DeleteOptions{}))
}
