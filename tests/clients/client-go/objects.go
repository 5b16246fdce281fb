package main

import (
	"context"
	"encoding/json"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

type namespaceType = corev1.Namespace

var virtualServices = schema.GroupVersionResource{Group: "networking.istio.io", Version: "v1", Resource: "virtualservices"}
var pods = schema.GroupVersionResource{Version: "v1", Resource: "pods"}

// object parses an object of the checks.
func object[P interface{ *T }, T any](text string) P {
	var value T
	if err := json.Unmarshal([]byte(text), &value); err != nil {
		panic(fmt.Sprintf("%v in %s", err, text))
	}
	return &value
}

// clock is a pod that prints, reads lines, and listens.
func clock() *corev1.Pod {
	return object[*corev1.Pod](`{"metadata": {"name": "clock", "labels": {"app": "clock"}}, "spec": {
		"terminationGracePeriodSeconds": 1,
		"containers": [
			{"name": "clock", "image": "host", "stdin": true, "command": ["sh", "-c",
				"while :; do echo tick; sleep 0.2; done & while read -r line; do echo \"read $line\"; done; wait"]},
			{"name": "web", "image": "isthmus/testapp"}]}}`)
}

func web(name string, replicas int) *appsv1.Deployment {
	return object[*appsv1.Deployment](fmt.Sprintf(`{"metadata": {"name": %q}, "spec": {"replicas": %d,
		"selector": {"matchLabels": {"app": %q}},
		"template": {"metadata": {"labels": {"app": %q}}, "spec": {"terminationGracePeriodSeconds": 1,
			"containers": [{"name": "web", "image": "isthmus/testapp"}]}}}}`, name, replicas, name, name))
}

func configMap(name string, labels map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}, Data: map[string]string{"a": "1"}}
}

func virtualService(name string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
		"metadata": map[string]any{"name": name},
		"spec": map[string]any{"hosts": []any{"reviews"}, "http": []any{map[string]any{
			"route": []any{map[string]any{"destination": map[string]any{"host": "reviews"}}}}}},
	}}
}

func (c *cluster) podIsReady(ctx context.Context, name string) error {
	return eventually(ctx, func() error {
		pod, err := c.typed.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, condition := range pod.Status.Conditions {
			if condition.Type == corev1.PodReady && condition.Status == corev1.ConditionTrue {
				return nil
			}
		}
		return fmt.Errorf("pod %s is not ready: %s", name, pod.Status.Phase)
	})
}

func (c *cluster) deploymentHas(ctx context.Context, name string, replicas int32) error {
	return eventually(ctx, func() error {
		found, err := c.typed.AppsV1().Deployments(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		return all(equal("ready replicas", found.Status.ReadyReplicas, replicas), equal("replicas", found.Status.Replicas, replicas))
	})
}

func (c *cluster) createService(ctx context.Context, service *corev1.Service) error {
	_, err := c.typed.CoreV1().Services(namespace).Create(ctx, service, metav1.CreateOptions{})
	return err
}
